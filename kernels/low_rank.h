// Low-rank adapters beside a linear layer (LoRA, arXiv 2106.09685, section 4.1): y += scale (u A^T) B^T.
//
// Legend: T tokens, I in, O out, R rank.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "kernels/parameter.h"

namespace tessera::kernels {

/// Adds to the columns [out_begin, out_end) of y.
struct LowRankSlice {
  ParameterPtr a;  // [R, I]
  ParameterPtr b;  // [out_end - out_begin, R]
  double scale = 1.0;
  int64_t out_begin = 0, out_end = 0;
};
using LowRankSlices = std::vector<LowRankSlice>;

/// u: [T, I], y: [T, O].
void add_adapters(const at::Tensor& u, const LowRankSlices& slices, const at::Tensor& y);

/// Gradients of the inner products u A^T, one a slice, from dy [T, O].
[[nodiscard]] std::vector<at::Tensor> low_rank_gradients(const at::Tensor& dy, const LowRankSlices& slices);
/// Adds what comes through the adapters to du [T, I].
void add_input_gradient(const std::vector<at::Tensor>& d_lows, const LowRankSlices& slices, const at::Tensor& du);
/// Adds to the gradients of A and B where they are trained.
void add_adapter_gradients(const at::Tensor& dy, const at::Tensor& u, const std::vector<at::Tensor>& d_lows, const LowRankSlices& slices);

}  // namespace tessera::kernels
