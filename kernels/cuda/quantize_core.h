// What the quantisers' kernels do, in terms of a group of threads that works on one tile: 32 lanes of a warp, or, in tests on a CPU, one thread
// that is all lanes. The phases of a block that others must not overtake are functions of their own.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "kernels/cuda/quantize.h"
#include "kernels/rounding.h"

namespace tessera::kernels::cuda {

constexpr int kTile = 128;
constexpr int kChannels = 32;              // that a block of quantize_tokens takes
constexpr int kPitch = kChannels + 1;      // floats between tokens in shared memory, so that a column's lie in different banks

TESSERA_ANYWHERE float load(const float* x) { return *x; }
TESSERA_ANYWHERE float load(const __nv_bfloat16* x) { return from_bfloat16(*reinterpret_cast<const uint16_t*>(x)); }

TESSERA_ANYWHERE bool is_finite(float x) { return (bits_of_float(x) & 0x7F800000U) != 0x7F800000U; }

/// amax / 448, at least 2^-126, 1 for 0; rounded up to a power of two where wanted.
TESSERA_ANYWHERE float scale_of(float amax, bool power_of_two) {
  if (amax == 0.0f) return 1.0f;
  const float scale = amax / 448.0f;
  const uint32_t bits = bits_of_float(scale < 0x1p-126f ? 0x1p-126f : scale);
  return float_of_bits(power_of_two ? (bits + 0x7FFFFFU) & 0x7F800000U : bits);
}

TESSERA_ANYWHERE uint8_t code_of(float x, float inverse) {
  return is_finite(x) ? static_cast<uint8_t>(__nv_cvt_float_to_fp8(x * inverse, __NV_SATFINITE, __NV_E4M3)) : uint8_t{0x7F};
}

/// One tile of up to 128 numbers: value(i) is read twice, put(i, code) called once for each. Returns the scale.
template <typename Group, typename Value, typename Put>
TESSERA_ANYWHERE float quantize_tile(const Group& group, int count, bool power_of_two, const Value& value, const Put& put) {
  float amax = 0.0f;
  for (int i = group.lane(); i < count; i += group.lanes()) {
    const float x = value(i), magnitude = x < 0.0f ? -x : x;
    if (is_finite(x) && magnitude > amax) amax = magnitude;
  }
  const float scale = scale_of(group.max(amax), power_of_two), inverse = 1.0f / scale;
  for (int i = group.lane(); i < count; i += group.lanes()) put(i, code_of(value(i), inverse));
  return scale;
}

/// Four neighbours in one access, at a multiple of their size.
struct Four {
  float x[4];
};
TESSERA_ANYWHERE Four load_four(const float* x) {
  const float4 raw = *reinterpret_cast<const float4*>(x);
  return {{raw.x, raw.y, raw.z, raw.w}};
}
TESSERA_ANYWHERE Four load_four(const __nv_bfloat16* x) {
  const uint2 raw = *reinterpret_cast<const uint2*>(x);
  return {{float_of_bits(raw.x << 16), float_of_bits(raw.x & 0xFFFF0000U), float_of_bits(raw.y << 16), float_of_bits(raw.y & 0xFFFF0000U)}};
}

/// A whole tile whose numbers and codes lie at multiples of four.
template <typename T, typename Group>
TESSERA_ANYWHERE float quantize_aligned_tile(const Group& group, bool power_of_two, const T* x, uint8_t* codes) {
  float amax = 0.0f;
  for (int i = 4 * group.lane(); i < kTile; i += 4 * group.lanes()) {
    const Four four = load_four(x + i);
    for (const float value : four.x) {
      const float magnitude = value < 0.0f ? -value : value;
      if (is_finite(value) && magnitude > amax) amax = magnitude;
    }
  }
  const float scale = scale_of(group.max(amax), power_of_two), inverse = 1.0f / scale;
  for (int i = 4 * group.lane(); i < kTile; i += 4 * group.lanes()) {
    const Four four = load_four(x + i);
    uint32_t packed = 0;
    for (int j = 0; j < 4; ++j) packed |= static_cast<uint32_t>(code_of(four.x[j], inverse)) << (8 * j);
    *reinterpret_cast<uint32_t*>(codes + i) = packed;
  }
  return scale;
}

/// Tile number `tile` of quantize_rows.
template <typename T, typename Group>
TESSERA_ANYWHERE void quantize_row_tile(const Group& group, const Quantize& job, int64_t tile) {
  const int64_t tiles = (job.columns + kTile - 1) / kTile, row = tile / tiles, begin = tile % tiles * kTile;
  const int count = static_cast<int>(job.columns - begin < kTile ? job.columns - begin : kTile);
  const T* x = static_cast<const T*>(job.x) + row * job.columns + begin;
  uint8_t* codes = job.codes + row * job.columns + begin;
  const float scale = count == kTile && job.columns % 4 == 0
                          ? quantize_aligned_tile(group, job.power_of_two_scales, x, codes)
                          : quantize_tile(group, count, job.power_of_two_scales, [x](int i) { return load(x + i); },
                                          [codes](int i, uint8_t code) { codes[i] = code; });
  if (group.lane() == 0) job.scales[tile] = scale;
}

/// 128 tokens of 32 channels: thread `thread` of `threads` brings its share into `shared` [kTile, kPitch].
template <typename T>
TESSERA_ANYWHERE void load_tokens(const Quantize& job, int64_t first_token, int64_t first_channel, int thread, int threads, float* shared) {
  for (int i = thread; i < kTile * kChannels; i += threads) {
    const int64_t token = first_token + i / kChannels, channel = first_channel + i % kChannels;
    const bool inside = token < job.rows && channel < job.columns;
    shared[i / kChannels * kPitch + i % kChannels] = inside ? load(static_cast<const T*>(job.x) + token * job.columns + channel) : 0.0f;
  }
}

/// When all of them are there: one of those channels.
template <typename Group>
TESSERA_ANYWHERE void quantize_channel(const Group& group, const Quantize& job, int64_t first_token, int64_t first_channel, int channel, const float* shared) {
  if (first_channel + channel >= job.columns) return;
  const int count = static_cast<int>(job.rows - first_token < kTile ? job.rows - first_token : kTile);
  uint8_t* codes = job.codes + (first_channel + channel) * job.rows + first_token;
  const float scale = quantize_tile(group, count, job.power_of_two_scales, [=](int i) { return shared[i * kPitch + channel]; },
                                    [codes](int i, uint8_t code) { codes[i] = code; });
  if (group.lane() == 0) job.scales[(first_channel + channel) * ((job.rows + kTile - 1) / kTile) + first_token / kTile] = scale;
}

}  // namespace tessera::kernels::cuda
