// Kernels that pass over memory once: SwiGLU, RMSNorm, AdamW, and the weighted sums of experts' rows. Plain data: compiled by nvcc. All return
// at once. Activations are float32 or bfloat16, all of one kind in a call; what is float* is float32.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace tessera::kernels::cuda {

/// Activations, and where their kernels run.
struct Where {
  bool bfloat16 = false;
  void* stream = nullptr;  // cudaStream_t
};

/// gate_up: [rows, 2 width], gate first; out, d_out: [rows, width].
void swiglu(Where where, const void* gate_up, int64_t rows, int64_t width, void* out);
void swiglu_backward(Where where, const void* d_out, const void* gate_up, int64_t rows, int64_t width, void* d_gate_up);

/// x, y: [rows, dim]; w: [dim] as x; rstd: [rows].
void rms_norm(Where where, const void* x, const void* w, float eps, int64_t rows, int64_t dim, void* y, float* rstd);
/// partial: [norm_parts(rows), dim] receives sums of rows whose sum is w's gradient; or null.
void rms_norm_backward(Where where, const void* dy, const void* x, const void* w, const float* rstd, int64_t rows, int64_t dim, void* dx, float* partial);
[[nodiscard]] int64_t norm_parts(int64_t rows);

/// Moments float32, or uint16_t* to bfloat16 with `narrow`; `noise` may be null.
void adamw(void* stream, const AdamWFactors& factors, float* weight, const float* gradient, void* exp_avg, void* exp_avg_sq, bool narrow, int64_t count,
           const MomentNoise* noise);

}  // namespace tessera::kernels::cuda
