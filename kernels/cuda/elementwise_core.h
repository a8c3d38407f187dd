// What one element, or a group of threads with a row, does; see quantize_core.h for groups.
#pragma once

#include <cuda_bf16.h>

#include <cmath>

#include "kernels/cuda/elementwise.h"
#include "kernels/rounding.h"

namespace tessera::kernels::cuda {

constexpr int64_t kNormRows = 64;  // whose share of a weight's gradient one thread adds up

/// bfloat16 as its bits: what raw memory holds.
struct Narrow {
  uint16_t bits;
};
TESSERA_ANYWHERE float widen(float x) { return x; }
TESSERA_ANYWHERE float widen(Narrow x) { return from_bfloat16(x.bits); }
TESSERA_ANYWHERE void put(float x, float& to) { to = x; }
TESSERA_ANYWHERE void put(float x, Narrow& to) { to.bits = to_bfloat16(x); }

template <typename T>
TESSERA_ANYWHERE void swiglu_element(const T* gate_up, int64_t width, int64_t row, int64_t column, T* out) {
  const float gate = widen(gate_up[row * 2 * width + column]), up = widen(gate_up[(row * 2 + 1) * width + column]);
  put(gate / (1.0f + expf(-gate)) * up, out[row * width + column]);
}

template <typename T>
TESSERA_ANYWHERE void swiglu_backward_element(const T* d_out, const T* gate_up, int64_t width, int64_t row, int64_t column, T* d_gate_up) {
  const float gate = widen(gate_up[row * 2 * width + column]), up = widen(gate_up[(row * 2 + 1) * width + column]), d = widen(d_out[row * width + column]);
  const float sigmoid = 1.0f / (1.0f + expf(-gate)), silu = gate * sigmoid;
  put(d * up * (sigmoid + silu * (1.0f - sigmoid)), d_gate_up[row * 2 * width + column]);
  put(d * silu, d_gate_up[(row * 2 + 1) * width + column]);
}

template <typename T, typename Group>
TESSERA_ANYWHERE void rms_norm_row(const Group& group, const T* x, const T* w, float eps, int64_t dim, T* y, float* rstd) {
  float squares = 0.0f;
  for (int64_t i = group.lane(); i < dim; i += group.lanes()) squares += widen(x[i]) * widen(x[i]);
  const float scale = 1.0f / sqrtf(group.sum(squares) / static_cast<float>(dim) + eps);
  for (int64_t i = group.lane(); i < dim; i += group.lanes()) put(widen(x[i]) * scale * widen(w[i]), y[i]);
  if (group.lane() == 0) *rstd = scale;
}

template <typename T, typename Group>
TESSERA_ANYWHERE void rms_norm_backward_row(const Group& group, const T* dy, const T* x, const T* w, float rstd, int64_t dim, T* dx) {
  float inner = 0.0f;
  for (int64_t i = group.lane(); i < dim; i += group.lanes()) inner += widen(dy[i]) * widen(w[i]) * (widen(x[i]) * rstd);
  const float mean = group.sum(inner) / static_cast<float>(dim);
  for (int64_t i = group.lane(); i < dim; i += group.lanes()) put(rstd * (widen(dy[i]) * widen(w[i]) - widen(x[i]) * rstd * mean), dx[i]);
}

/// Part `part` of a weight's gradient, in the order of its rows.
template <typename T>
TESSERA_ANYWHERE void norm_weight_part(const T* dy, const T* x, const float* rstd, int64_t rows, int64_t dim, int64_t part, int64_t column, float* partial) {
  float sum = 0.0f;
  const int64_t end = (part + 1) * kNormRows < rows ? (part + 1) * kNormRows : rows;
  for (int64_t r = part * kNormRows; r < end; ++r) sum += widen(dy[r * dim + column]) * (widen(x[r * dim + column]) * rstd[r]);
  partial[part * dim + column] = sum;
}

template <typename T>
TESSERA_ANYWHERE void adamw_element(const AdamWFactors& f, float& weight, float gradient, T& exp_avg, T& exp_avg_sq, const MomentNoise* noise, int64_t i) {
  const float g = gradient * f.gradient_scale;
  const float m = f.beta1 * widen(exp_avg) + (1.0f - f.beta1) * g, v = f.beta2 * widen(exp_avg_sq) + (1.0f - f.beta2) * (g * g);
  if constexpr (sizeof(T) == sizeof(Narrow)) {
    if (noise != nullptr) {
      const uint32_t bits = rounding_noise(noise->key, static_cast<uint64_t>(noise->first + i));
      exp_avg.bits = to_bfloat16_stochastic(m, bits);
      exp_avg_sq.bits = to_bfloat16_stochastic(v, bits >> 16);
    } else {
      put(m, exp_avg);
      put(v, exp_avg_sq);
    }
  } else {
    exp_avg = m;
    exp_avg_sq = v;
  }
  weight = weight * f.keep - f.step_size * m / (sqrtf(v) * f.inverse_root + f.eps);
}

}  // namespace tessera::kernels::cuda
