// Quantisers by row of what is computed on the way, RMSNorm's and SwiGLU's results, and SwiGLU from codes: to the bits of the kernels that these
// stand for one after the other. Plain data: compiled by nvcc. All return at once.
#pragma once

#include "kernels/cuda/quantize.h"

namespace tessera::kernels::cuda {

/// to: codes and scales of RMSNorm(to.x) as quantize_rows() has them. w: [columns] as x; rstd: [rows] is written.
struct QuantizeNorm {
  Quantize to;
  const void* w = nullptr;
  float eps = 0.0f;
  float* rstd = nullptr;
};
void quantize_norm(const QuantizeNorm& job);

/// Gates and ups: row 2 t of codes [2 rows, width] and scales [2 rows, ceil(width / 128)] holds token t's gates, the next one its ups.
struct GateUpCodes {
  uint8_t* codes = nullptr;
  float* scales = nullptr;
};
/// to: codes and scales [to.rows, to.columns] of SwiGLU(to.x), where x is [to.rows, 2 to.columns]; its own codes beside them.
void quantize_swiglu(const Quantize& to, const GateUpCodes& gate_up);

/// As elementwise.h's swiglu() and swiglu_backward() of what the codes stand for, in the activations' type.
struct GateUp {
  GateUpCodes from;
  int64_t rows = 0, width = 0;
  bool bfloat16 = false;
  void* stream = nullptr;  // cudaStream_t
};
void swiglu_of_codes(const GateUp& gate_up, void* out);
void swiglu_backward_of_codes(const GateUp& gate_up, const void* d_out, void* d_gate_up);

}  // namespace tessera::kernels::cuda
