// The linear layer with what surrounds it in a transformer block: an optional RMSNorm or SwiGLU in front, whose output is
// recomputed in the backward pass instead of being kept, low-rank adapters beside, an optional residual behind.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "kernels/low_rank.h"
#include "kernels/parameter.h"
#include "kernels/prologue.h"

namespace tessera::kernels {

namespace fp8 {
class Weight;
}

struct LinearSpec {
  ParameterPtr weight;  // [out, in]
  ParameterPtr bias = {};  // [out] or null
  LowRankSlices adapters = {};
  Prologue prologue = Prologue::kNone;
  ParameterPtr norm = {};  // [in], with Prologue::kRmsNorm
  float norm_eps = 1e-6f;
  std::shared_ptr<fp8::Weight> fp8 = {};  // the weight's quantised twin: products in training are in FP8; null: in float32

  /// Whether any of its parameters but the norm is trained.
  [[nodiscard]] bool trains() const;
};

/// Waits until all values are whole; see Parameter::await.
void await(const LinearSpec& spec);

/// u = prologue(x); y = u W^T + bias + adapters + residual. x: [T, in], or [T, 2 in] (gate, up) with kSwiglu;
/// `residual`: [T, out] or undefined. Returns y [T, out]. float32. `spec` must outlive the backward pass. `row_starts`: the first
/// tokens of rows, at which FP8 tiles along tokens begin anew; ascending, empty: 0 alone.
at::Tensor linear(const at::Tensor& x, const LinearSpec& spec, const at::Tensor& residual = {}, const std::vector<int64_t>& row_starts = {});

/// Passes of generation have no autograd and no FP8. In them a row's result depends on the row alone, not on how many others there are.
enum class PassKind {
  kTraining,  // and scoring
  kPrefill,   // whole prompts
  kDecode,    // single tokens behind cached ones
};

/// Without autograd, for generation; a row of y depends on its row of x alone, not on how many there are. The first is for
/// prompts, the second for single tokens of several sequences: it reads the weights once.
at::Tensor linear_prefill(const at::Tensor& x, const LinearSpec& spec, const at::Tensor& residual = {});
at::Tensor linear_decode(const at::Tensor& x, const LinearSpec& spec, const at::Tensor& residual = {});

}  // namespace tessera::kernels
