// oneDNN's single-precision product. LibTorch contains another version of oneDNN and exports parts of it, so the system's
// library is loaded at run time in a symbol scope of its own; linked normally, the two get mixed up.
#pragma once

#include <cstdint>

namespace tessera::kernels {

/// Whether the system's oneDNN 2.x is there and works.
bool onednn_available();

/// C = alpha * op(A) op(B) + beta * C, row-major; op(A): [m, k], op(B): [k, n], C: [m, n]. Requires onednn_available().
void onednn_gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
                 const float* b, int64_t ldb, float beta, float* c, int64_t ldc);

}  // namespace tessera::kernels
