// Single-precision matrix products. Which library multiplies is decided by the processor: LibTorch's MKL is the fastest on
// Intel, but takes its AVX2 path on others; oneDNN uses what the processor has (on an AVX-512 EPYC twice the speed).
#pragma once

#include <ATen/core/Tensor.h>

namespace tessera::kernels {

/// From so many rows on, a row of a product has the same bits however many there are; oneDNN takes other ways below.
constexpr int64_t kSteadyRows = 16;

enum class Transpose { kNo, kYes };

/// c = alpha * op(a) op(b) + beta * c. Two-dimensional float32 tensors with contiguous rows (any row stride).
void gemm(const at::Tensor& a, Transpose transpose_a, const at::Tensor& b, Transpose transpose_b, at::Tensor c, double alpha = 1.0,
          double beta = 0.0);

struct GemmSize {
  int64_t m, n, k;
};

/// c = op(a) op(b) + beta * c on raw rows `ld*` floats apart. On the calling thread alone when that is one of at::parallel_for's.
void gemm(GemmSize size, const float* a, int64_t lda, Transpose transpose_a, const float* b, int64_t ldb, Transpose transpose_b,
          float* c, int64_t ldc, float beta);

/// x w^T as a new tensor, whose rows have the same bits however many there are. x: [m, k], w: [n, k].
at::Tensor product_with_transposed(const at::Tensor& x, const at::Tensor& w);

/// x w as a new tensor. x: [m, n], w: [n, k].
at::Tensor product(const at::Tensor& x, const at::Tensor& w);

/// The library in use, for reports: "oneDNN" or "LibTorch".
const char* gemm_library();

}  // namespace tessera::kernels
