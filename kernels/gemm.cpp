#include "kernels/gemm.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include "core/error.h"
#include "kernels/accelerator.h"
#include "kernels/cpu/onednn_gemm.h"

namespace tessera::kernels {

namespace {

bool use_onednn() {
#if defined(__x86_64__)
  static const bool chosen = [] {
    __builtin_cpu_init();
    return !__builtin_cpu_is("intel") && onednn_available();
  }();
  return chosen;
#else
  return false;
#endif
}

void check_operand(const at::Tensor& t) {
  TESSERA_CHECK(t.dim() == 2 && t.scalar_type() == at::kFloat && (t.size(1) <= 1 || t.stride(1) == 1), "gemm operand ", t.sizes(),
                " strides ", t.strides());
}

/// Row stride as BLAS wants it: at least the row length, also for a single row.
int64_t leading(const at::Tensor& t) { return std::max({t.stride(0), t.size(1), int64_t{1}}); }

}  // namespace

void gemm(const at::Tensor& a, Transpose transpose_a, const at::Tensor& b, Transpose transpose_b, at::Tensor c, double alpha,
          double beta) {
  if (const Accelerator* device = accelerator_of(c)) return device->gemm(a, transpose_a, b, transpose_b, c, alpha, beta);
  check_operand(a);
  check_operand(b);
  check_operand(c);
  const bool ta = transpose_a == Transpose::kYes, tb = transpose_b == Transpose::kYes;
  const int64_t m = a.size(ta ? 1 : 0), k = a.size(ta ? 0 : 1), n = b.size(tb ? 0 : 1);
  TESSERA_CHECK(b.size(tb ? 1 : 0) == k && c.size(0) == m && c.size(1) == n, "gemm of ", a.sizes(), " and ", b.sizes(), " into ", c.sizes());
  if (m == 0 || n == 0) return;
  if (k == 0) {
    c.mul_(beta);
    return;
  }
  if (use_onednn()) {
    onednn_gemm(ta, tb, m, n, k, static_cast<float>(alpha), a.const_data_ptr<float>(), leading(a), b.const_data_ptr<float>(), leading(b),
                static_cast<float>(beta), c.data_ptr<float>(), leading(c));
  } else {
    at::addmm_out(c, c, ta ? a.t() : a, tb ? b.t() : b, beta, alpha);
  }
}

void gemm(GemmSize size, const float* a, int64_t lda, Transpose transpose_a, const float* b, int64_t ldb, Transpose transpose_b,
          float* c, int64_t ldc, float beta) {
  const auto [m, n, k] = size;
  const bool ta = transpose_a == Transpose::kYes, tb = transpose_b == Transpose::kYes;
  if (use_onednn()) return onednn_gemm(ta, tb, m, n, k, 1.0f, a, lda, b, ldb, beta, c, ldc);
  at::NoGradGuard no_grad;  // grad mode is per thread
  const auto matrix = [](const float* data, int64_t rows, int64_t columns, int64_t ld) {
    return at::from_blob(const_cast<float*>(data), {rows, columns}, {ld, 1}, at::kFloat);
  };
  const at::Tensor ma = ta ? matrix(a, k, m, lda).t() : matrix(a, m, k, lda), mb = tb ? matrix(b, n, k, ldb).t() : matrix(b, k, n, ldb);
  at::Tensor mc = matrix(c, m, n, ldc);
  at::addmm_out(mc, mc, ma, mb, beta, 1.0);
}

at::Tensor product_with_transposed(const at::Tensor& x, const at::Tensor& w) {
  if (x.size(0) > 0 && x.size(0) < kSteadyRows && accelerator_of(x) == nullptr) {
    at::Tensor padded = at::zeros({kSteadyRows, x.size(1)}, x.options());
    padded.narrow(0, 0, x.size(0)).copy_(x);
    return product_with_transposed(padded, w).narrow(0, 0, x.size(0));
  }
  at::Tensor y = at::empty({x.size(0), w.size(0)}, x.options());
  gemm(x, Transpose::kNo, w, Transpose::kYes, y);
  return y;
}

at::Tensor product(const at::Tensor& x, const at::Tensor& w) {
  at::Tensor y = at::empty({x.size(0), w.size(1)}, x.options());
  gemm(x, Transpose::kNo, w, Transpose::kNo, y);
  return y;
}

const char* gemm_library() { return use_onednn() ? "oneDNN" : "LibTorch"; }

}  // namespace tessera::kernels
