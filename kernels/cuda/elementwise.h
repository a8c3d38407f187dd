// Kernels that pass over activations once or twice: SwiGLU, RMSNorm of rows and of heads, rotations. Plain data: compiled by nvcc. All return at
// once. Activations are float32 or bfloat16, all of one kind in a call; what is float* is float32.
#pragma once

#include <cstdint>

namespace tessera::kernels::cuda {

/// Activations, and where their kernels run.
struct Where {
  bool bfloat16 = false;
  void* stream = nullptr;  // cudaStream_t
};

/// gate_up: [rows, 2 width], gate first; out, d_out: [rows, width].
void swiglu(Where where, const void* gate_up, int64_t rows, int64_t width, void* out);
void swiglu_backward(Where where, const void* d_out, const void* gate_up, int64_t rows, int64_t width, void* d_gate_up);

/// Vectors of `dim` numbers: vector v begins at v / per_line * line_stride + v % per_line * dim. Rows, or heads in wider rows.
struct Vectors {
  void* data = nullptr;
  int64_t per_line = 1, line_stride = 0;
};
/// y may be x, or null where rstd alone is wanted; w: [dim] as x; rstd: [count].
void rms_norm(Where where, Vectors x, const void* w, float eps, int64_t count, int64_t dim, Vectors y, float* rstd);
/// dx may be dy. partial: [norm_parts(count), dim] receives sums over vectors whose sum is w's gradient; or null.
void rms_norm_backward(Where where, Vectors dy, Vectors x, const void* w, const float* rstd, int64_t count, int64_t dim, Vectors dx, float* partial);
[[nodiscard]] int64_t norm_parts(int64_t count);

/// The first `dim` numbers of heads in rows, as attention_core.h's rotate_heads().
struct Rotation {
  void* x = nullptr;
  int64_t rows = 0, row_stride = 0, heads = 0, head_stride = 0, dim = 0;
  bool neighbours = false, inverse = false;
  const int32_t* positions = nullptr;            // [rows]
  const float *cos = nullptr, *sin = nullptr;  // [., dim / 2]
};
void rotate(Where where, const Rotation& rotation);

}  // namespace tessera::kernels::cuda
