#include "kernels/low_rank.h"

#include "kernels/gemm.h"

namespace tessera::kernels {

namespace {
at::Tensor columns_of(const at::Tensor& y, const LowRankSlice& slice) { return y.slice(1, slice.out_begin, slice.out_end); }
}  // namespace

void add_adapters(const at::Tensor& u, const LowRankSlices& slices, const at::Tensor& y) {
  for (const auto& slice : slices) {
    const at::Tensor low = product_with_transposed(u, slice.a->value);
    gemm(low, Transpose::kNo, slice.b->value, Transpose::kYes, columns_of(y, slice), slice.scale, 1.0);
  }
}

std::vector<at::Tensor> low_rank_gradients(const at::Tensor& dy, const LowRankSlices& slices) {
  std::vector<at::Tensor> gradients;
  for (const auto& slice : slices) gradients.push_back(product(columns_of(dy, slice), slice.b->value).mul_(slice.scale));
  return gradients;
}

void add_input_gradient(const std::vector<at::Tensor>& d_lows, const LowRankSlices& slices, const at::Tensor& du) {
  for (size_t i = 0; i < d_lows.size(); ++i) gemm(d_lows[i], Transpose::kNo, slices[i].a->value, Transpose::kNo, du, 1.0, 1.0);
}

void add_adapter_gradients(const at::Tensor& dy, const at::Tensor& u, const std::vector<at::Tensor>& d_lows, const LowRankSlices& slices) {
  for (size_t i = 0; i < slices.size(); ++i) {
    const LowRankSlice& slice = slices[i];
    if (!slice.b->trainable()) continue;
    const at::Tensor low = product_with_transposed(u, slice.a->value);
    gemm(columns_of(dy, slice), Transpose::kYes, low, Transpose::kNo, slice.b->open_gradient(), slice.scale, 1.0);
    slice.b->gradient_added();
    gemm(d_lows[i], Transpose::kYes, u, Transpose::kNo, slice.a->open_gradient(), 1.0, 1.0);
    slice.a->gradient_added();
  }
}

}  // namespace tessera::kernels
