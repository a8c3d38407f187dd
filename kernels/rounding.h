// Rounding to bfloat16, in integers, so that raw kernels of every kind have the same bits. Plain data, for CPUs and GPUs.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define TESSERA_ANYWHERE __host__ __device__ __forceinline__
#else
#define TESSERA_ANYWHERE [[gnu::always_inline]] inline  // never a function that another instruction set's file shares
#endif

namespace tessera::kernels {

TESSERA_ANYWHERE uint32_t bits_of_float(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
TESSERA_ANYWHERE float float_of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
TESSERA_ANYWHERE float from_bfloat16(uint16_t x) { return float_of_bits(static_cast<uint32_t>(x) << 16); }

/// To the nearest, ties to even; NaN stays NaN.
TESSERA_ANYWHERE uint16_t to_bfloat16(float x) {
  const uint32_t bits = bits_of_float(x);
  const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  return static_cast<uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : rounded);
}
/// Up or down with the probabilities that make the mean exact; `noise`: 16 random bits. x must be finite.
TESSERA_ANYWHERE uint16_t to_bfloat16_stochastic(float x, uint32_t noise) {
  return static_cast<uint16_t>((bits_of_float(x) + (noise & 0xFFFF)) >> 16);
}

/// 32 random bits for an element of a tensor under a key: two rounds of a 32-bit mixer. It has to be cheap rather than perfect.
TESSERA_ANYWHERE uint32_t rounding_noise(uint64_t key, uint64_t element) {
  uint32_t x = static_cast<uint32_t>(element) ^ static_cast<uint32_t>(key);
  const uint32_t high = static_cast<uint32_t>(element >> 32) * 0x9E3779B9U + static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 2; ++round) {
    x ^= x >> 16;
    x *= 0x7FEB352DU;
    x ^= x >> 15;
    x *= 0x846CA68BU;
    x ^= (x >> 16) ^ high;
  }
  return x ^ (x >> 16);
}

}  // namespace tessera::kernels
