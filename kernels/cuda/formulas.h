// Formulas that more than one kernel computes, in the same order. For nvcc.
#pragma once

#include "kernels/cuda/launch.h"

namespace tessera::kernels::cuda {

/// x as memory of that type holds it.
template <typename T>
__device__ float rounded(float x) {
  T y;
  put(x, y);
  return widen(y);
}

__device__ inline float swiglu_of(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

struct GateGradient {
  float gate, up;
};
__device__ inline GateGradient swiglu_gradient(float d, float gate, float up) {
  const float sigmoid = 1.0f / (1.0f + expf(-gate)), silu = gate * sigmoid;
  return {d * up * (sigmoid + silu * (1.0f - sigmoid)), d * silu};
}

/// 1 / sqrt(mean of squares + eps) of a group's row, N numbers an access.
template <int N, typename Group, typename T>
__device__ float inverse_rms(const T* x, int64_t dim, float eps) {
  float squares = 0.0f;
  for (int64_t i = Group::lane() * N; i < dim; i += Group::kLanes * N) {
    const Pack<T, N> values = load<N>(x + i);
    for (int j = 0; j < N; ++j) squares += widen(values.x[j]) * widen(values.x[j]);
  }
  return 1.0f / sqrtf(Group::sum(squares) / static_cast<float>(dim) + eps);
}

}  // namespace tessera::kernels::cuda
