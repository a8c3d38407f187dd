#include "kernels/gemm.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>

#include "core/error.h"
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

at::Tensor product_with_transposed(const at::Tensor& x, const at::Tensor& w) {
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
