// A tile of 128 numbers, its scale and its codes in E4M3: what quantisers are made of. For nvcc.
#pragma once

#include <cuda_fp8.h>

#include "kernels/cuda/launch.h"

namespace tessera::kernels::cuda {

constexpr int kTile = 128;

__device__ inline bool is_finite(float x) { return (bits_of_float(x) & 0x7F800000U) != 0x7F800000U; }
__device__ inline float larger_magnitude(float amax, float x) {
  const float magnitude = x < 0.0f ? -x : x;
  return is_finite(x) && magnitude > amax ? magnitude : amax;
}

/// amax / 448, at least 2^-126, 1 for 0; rounded up to a power of two where wanted.
__device__ inline float scale_of(float amax, bool power_of_two) {
  if (amax == 0.0f) return 1.0f;
  const float scale = amax / 448.0f;
  const uint32_t bits = bits_of_float(scale < 0x1p-126f ? 0x1p-126f : scale);
  return float_of_bits(power_of_two ? (bits + 0x7FFFFFU) & 0x7F800000U : bits);
}

__device__ inline uint8_t code_of(float x, float inverse) {
  return is_finite(x) ? static_cast<uint8_t>(__nv_cvt_float_to_fp8(x * inverse, __NV_SATFINITE, __NV_E4M3)) : uint8_t{0x7F};
}
/// Exponent and mantissa as those of a float32, 2^120 too small.
__device__ inline float value_of(uint8_t code) {
  if ((code & 0x7F) == 0x7F) return NAN;
  const float magnitude = float_of_bits(static_cast<uint32_t>(code & 0x7F) << 20) * 0x1p120f;
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

/// A lane's four neighbours of a warp's tile.
struct Four {
  float x[4];
};
/// Of a tile of `count` numbers, zeros behind them. by_four: whole tiles lie at multiples of four numbers.
template <typename T>
__device__ Four four_of(const T* x, int count, bool by_four) {
  const int at = 4 * Warp::lane();
  Four four{};
  if (by_four && count == kTile) {
    const Pack<T, 4> pack = load<4>(x + at);
    for (int j = 0; j < 4; ++j) four.x[j] = widen(pack.x[j]);
  } else {
    for (int j = 0; j < 4; ++j)
      if (at + j < count) four.x[j] = widen(x[at + j]);
  }
  return four;
}
/// Writes the tile's codes and returns its scale.
__device__ inline float quantize_four(const Four& four, int count, bool by_four, bool power_of_two, uint8_t* codes) {
  const int at = 4 * Warp::lane();
  float amax = 0.0f;
  for (int j = 0; j < 4; ++j) amax = larger_magnitude(amax, four.x[j]);
  const float scale = scale_of(Warp::max(amax), power_of_two), inverse = 1.0f / scale;
  Pack<uint8_t, 4> pack;
  for (int j = 0; j < 4; ++j) pack.x[j] = code_of(four.x[j], inverse);
  if (by_four && count == kTile) {
    store(pack, codes + at);
  } else {
    for (int j = 0; j < 4; ++j)
      if (at + j < count) codes[at + j] = pack.x[j];
  }
  return scale;
}

}  // namespace tessera::kernels::cuda
