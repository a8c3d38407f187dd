// Quantisation to 8-bit floating point: the same bits on every instruction set. Included by isa.cpp only.
//
// Elements are rounded in float32: adding 1.5 times 2^23 quanta rounds to the nearest, ties to even, whether the result is
// normal or subnormal. A clamp between a product and this sum keeps the compiler from fusing the two.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/fp8/format.h"
#include "kernels/rounding.h"

namespace tessera::kernels::TESSERA_ISA {

typedef uint8_t ByteVec __attribute__((vector_size(TESSERA_VECTOR_BYTES / 4)));

struct E4m3 {
  static constexpr int kMantissa = 3, kBias = 7;
  static constexpr float kLargest = 448.0f;
  static constexpr int32_t kInfinity = 0x7F, kNan = 0x7F;
};
struct E5m2 {
  static constexpr int kMantissa = 2, kBias = 15;
  static constexpr float kLargest = 57344.0f;
  static constexpr int32_t kInfinity = 0x7C, kNan = 0x7F;
};

constexpr int32_t kFloatInfinity = 0x7F800000, kFloatNan = 0x7FC00000, kMagnitude = 0x7FFFFFFF;

inline IntVec bits_of(Vec v) { return reinterpret_cast<IntVec>(v); }
inline Vec float_of(IntVec v) { return reinterpret_cast<Vec>(v); }
inline IntVec int_max(IntVec a, IntVec b) { return a > b ? a : b; }
/// Bits of magnitudes; those of NaN and infinity are the largest. `Finite`: there are none; else they count as 0.
template <bool Finite>
inline IntVec magnitude_bits(Vec x) {
  const IntVec bits = bits_of(x) & kMagnitude;
  if constexpr (Finite) return bits;
  return bits < kFloatInfinity ? bits : IntVec{};
}

/// Scales of tiles with these largest magnitudes; see fp8::Scheme.
template <typename Format>
inline Vec scales_of(Vec largest, bool power_of_two) {
  const Vec smallest = broadcast(0x1p-126f);
  Vec scale = largest / Format::kLargest;
  scale = scale < smallest ? smallest : scale;
  if (power_of_two) scale = float_of((bits_of(scale) + 0x7FFFFF) & kFloatInfinity);
  return largest == Vec{} ? broadcast(1.0f) : scale;
}

/// One vector: x times 1 / scale, rounded. Codes and values (codes times scale) where wanted.
template <typename Format, bool Finite>
inline void quantize_vector(Vec x, Vec scale, Vec inverse, IntVec* codes, Vec* values) {
  constexpr int kShift = 23 - Format::kMantissa;
  constexpr int32_t kSmallest = (128 - Format::kBias) << 23;  // the smallest normal number, 2^(1 - bias)
  const IntVec sign = bits_of(x) & ~kMagnitude, magnitude = bits_of(x) & kMagnitude;
  Vec y = float_of(magnitude) * inverse;
  y = y < Format::kLargest ? y : broadcast(Format::kLargest);
  const IntVec quanta = int_max(bits_of(y) & kFloatInfinity, IntVec{} + kSmallest) + ((kShift << 23) | 0x400000);
  const Vec rounded = (y + float_of(quanta)) - float_of(quanta);
  const IntVec bad = magnitude >= kFloatInfinity;
  if (codes != nullptr) {
    const IntVec normal = (bits_of(rounded) >> kShift) - ((127 - Format::kBias) << Format::kMantissa);
    const IntVec subnormal = (bits_of(rounded + float_of(IntVec{} + kSmallest)) >> kShift) - (kSmallest >> kShift);
    IntVec code = bits_of(rounded) < kSmallest ? subnormal : normal;
    if constexpr (!Finite) code = bad ? (magnitude > kFloatInfinity ? IntVec{} + Format::kNan : IntVec{} + Format::kInfinity) : code;
    *codes = code | ((sign >> 24) & 0x80);
  }
  if (values != nullptr) {
    IntVec value = bits_of(rounded * scale);
    if constexpr (!Finite) {
      const bool has_infinity = Format::kInfinity != Format::kNan;
      value = bad ? (has_infinity && magnitude == kFloatInfinity ? magnitude : IntVec{} + kFloatNan) : value;
    }
    *values = float_of(value | sign);
  }
}

inline void store_codes(uint8_t* to, IntVec codes, int64_t count) {
  const ByteVec bytes = __builtin_convertvector(codes, ByteVec);
  if (count == kWidth) {
    std::memcpy(to, &bytes, sizeof bytes);
  } else {
    std::memcpy(to, &bytes, static_cast<size_t>(count));
  }
}

/// Quantises `count` floats with the scales of their lanes.
template <typename Format, bool Finite>
inline void quantize_lanes(const float* x, int64_t count, Vec scale, Vec inverse, uint8_t* codes, float* values) {
  const bool full = count == kWidth;
  const Vec v = full ? load(x) : load_partial(x, count);
  IntVec code;
  Vec value;
  quantize_vector<Format, Finite>(v, scale, inverse, codes == nullptr ? nullptr : &code, values == nullptr ? nullptr : &value);
  if (codes != nullptr) store_codes(codes, code, count);
  if (values != nullptr) full ? store(values, value) : store_partial(values, value, count);
}

template <typename T>
inline T* at_row(T* base, int64_t row, int64_t stride) {
  return base == nullptr ? nullptr : base + row * stride;
}
template <typename T>
inline T* shifted(T* base, int64_t by) {
  return base == nullptr ? nullptr : base + by;
}

/// With one scale for all.
template <typename Format, bool Finite>
inline void quantize_block_with(const float* x, int64_t stride, int64_t rows, int64_t columns, float scale, const fp8::Sink& sink) {
  const Vec s = broadcast(scale), inverse = broadcast(1.0f / scale);
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = x + r * stride;
    uint8_t* codes = at_row(sink.codes, r, sink.code_stride);
    float* values = at_row(sink.values, r, sink.value_stride);
    const auto run = [&](int64_t i, int64_t count) {
      quantize_lanes<Format, Finite>(row + i, count, s, inverse, shifted(codes, i), shifted(values, i));
    };
    for_each_vector(columns, [&](int64_t i) { run(i, kWidth); }, run);
  }
}

template <bool Finite>
inline int32_t largest_bits(const float* x, int64_t stride, int64_t rows, int64_t columns) {
  IntVec best{}, best2{};
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = x + r * stride;
    int64_t i = 0;
    for (; i + 2 * kWidth <= columns; i += 2 * kWidth) {
      best = int_max(best, magnitude_bits<Finite>(load(row + i)));
      best2 = int_max(best2, magnitude_bits<Finite>(load(row + i + kWidth)));
    }
    if (i + kWidth <= columns) {
      best = int_max(best, magnitude_bits<Finite>(load(row + i)));
      i += kWidth;
    }
    if (i < columns) best2 = int_max(best2, magnitude_bits<Finite>(load_partial(row + i, columns - i)));
  }
  return horizontal_max(int_max(best, best2));
}

/// Tiles that are wider than a column: one scale each.
template <typename Format>
inline void quantize_blocks(const fp8::Scheme& scheme, const float* x, int64_t stride, int64_t rows, int64_t columns, const fp8::Sink& sink) {
  const auto [tile_rows, tile_columns] = scheme.tile;
  for (int64_t r = 0; r < rows; r += tile_rows) {
    const int64_t count = r + tile_rows < rows ? tile_rows : rows - r;
    for (int64_t c = 0; c < columns; c += tile_columns) {
      const int64_t width = c + tile_columns < columns ? tile_columns : columns - c;
      const float* tile = x + r * stride + c;
      int32_t bits = largest_bits<true>(tile, stride, count, width);
      const bool finite = bits < kFloatInfinity;
      if (!finite) bits = largest_bits<false>(tile, stride, count, width);
      const float scale = scales_of<Format>(broadcast(float_of_bits(static_cast<uint32_t>(bits))), scheme.power_of_two_scales)[0];
      if (sink.scales != nullptr) sink.scales[r / tile_rows * sink.scale_stride + c / tile_columns] = scale;
      const fp8::Sink here{shifted(at_row(sink.codes, r, sink.code_stride), c), sink.code_stride, nullptr, 0,
                           shifted(at_row(sink.values, r, sink.value_stride), c), sink.value_stride};
      (finite ? quantize_block_with<Format, true> : quantize_block_with<Format, false>)(tile, stride, count, width, scale, here);
    }
  }
}

/// Tiles one column wide and up to `rows` long, `N` vectors of columns at a time; of the last vector `count` lanes.
template <typename Format, bool Finite, int64_t N>
inline bool quantize_columns_panel(const fp8::Scheme& scheme, const float* x, int64_t stride, int64_t rows, int64_t count, const fp8::Sink& sink) {
  const auto lanes = [&](int64_t n) { return n + 1 < N ? kWidth : count; };
  const auto read = [&](const float* p, int64_t n) { return lanes(n) == kWidth ? load(p + n * kWidth) : load_partial(p + n * kWidth, count); };
  IntVec best[N] = {};
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t n = 0; n < N; ++n) best[n] = int_max(best[n], magnitude_bits<Finite>(read(x + r * stride, n)));
  Vec scale[N], inverse[N];
  for (int64_t n = 0; n < N; ++n) {
    if (Finite && horizontal_max(best[n]) >= kFloatInfinity) return false;
    scale[n] = scales_of<Format>(float_of(best[n]), scheme.power_of_two_scales);
    inverse[n] = 1.0f / scale[n];
    if (sink.scales != nullptr) store_partial(sink.scales + n * kWidth, scale[n], lanes(n));
  }
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t n = 0; n < N; ++n)
      quantize_lanes<Format, Finite>(x + r * stride + n * kWidth, lanes(n), scale[n], inverse[n],
                                     shifted(at_row(sink.codes, r, sink.code_stride), n * kWidth),
                                     shifted(at_row(sink.values, r, sink.value_stride), n * kWidth));
  return true;
}

template <typename Format>
inline void quantize_columns(const fp8::Scheme& scheme, const float* x, int64_t stride, int64_t rows, int64_t columns, const fp8::Sink& sink) {
  constexpr int64_t kPanel = 4;
  for (int64_t r = 0; r < rows; r += scheme.tile.rows) {
    const int64_t length = r + scheme.tile.rows < rows ? scheme.tile.rows : rows - r;
    const auto run = [&]<int64_t N>(int64_t c, int64_t count) {
      const fp8::Sink here{shifted(at_row(sink.codes, r, sink.code_stride), c), sink.code_stride,
                           shifted(at_row(sink.scales, r / scheme.tile.rows, sink.scale_stride), c), sink.scale_stride,
                           shifted(at_row(sink.values, r, sink.value_stride), c), sink.value_stride};
      const float* panel = x + r * stride + c;
      if (!quantize_columns_panel<Format, true, N>(scheme, panel, stride, length, count, here))
        quantize_columns_panel<Format, false, N>(scheme, panel, stride, length, count, here);
    };
    int64_t c = 0;
    for (; c + kPanel * kWidth <= columns; c += kPanel * kWidth) run.template operator()<kPanel>(c, kWidth);
    for (; c < columns; c += kWidth) run.template operator()<1>(c, c + kWidth <= columns ? kWidth : columns - c);
  }
}

inline void fp8_quantize(const fp8::Scheme& scheme, const float* x, int64_t stride, int64_t rows, int64_t columns, const fp8::Sink& sink) {
  const bool e4m3 = scheme.format == fp8::Format::kE4m3;
  if (scheme.tile.columns == 1) {
    (e4m3 ? quantize_columns<E4m3> : quantize_columns<E5m2>)(scheme, x, stride, rows, columns, sink);
  } else {
    (e4m3 ? quantize_blocks<E4m3> : quantize_blocks<E5m2>)(scheme, x, stride, rows, columns, sink);
  }
}

inline float fp8_largest(const float* x, int64_t stride, int64_t rows, int64_t columns) {
  const int32_t bits = largest_bits<true>(x, stride, rows, columns);
  return float_of_bits(static_cast<uint32_t>(bits < kFloatInfinity ? bits : largest_bits<false>(x, stride, rows, columns)));
}

inline float fp8_scale(const fp8::Scheme& scheme, float largest) {
  const auto of = scheme.format == fp8::Format::kE4m3 ? scales_of<E4m3> : scales_of<E5m2>;
  return of(broadcast(largest), scheme.power_of_two_scales)[0];
}

inline void fp8_quantize_with(fp8::Format format, float scale, const float* x, int64_t stride, int64_t rows, int64_t columns, const fp8::Sink& sink) {
  (format == fp8::Format::kE4m3 ? quantize_block_with<E4m3, false> : quantize_block_with<E5m2, false>)(x, stride, rows, columns, scale, sink);
}

template <typename Format>
inline Vec decode(IntVec codes) {
  constexpr int kShift = 23 - Format::kMantissa;
  const IntVec magnitude = codes & 0x7F, sign = (codes & 0x80) << 24;
  const Vec subnormal = __builtin_convertvector(magnitude, Vec) * float_of_bits(uint32_t{(128 - Format::kBias - Format::kMantissa) << 23});
  IntVec value = magnitude < (1 << Format::kMantissa) ? bits_of(subnormal) : (magnitude << kShift) + ((127 - Format::kBias) << 23);
  if constexpr (Format::kInfinity != Format::kNan) value = magnitude == Format::kInfinity ? IntVec{} + kFloatInfinity : value;
  value = magnitude > Format::kInfinity || magnitude == Format::kNan ? IntVec{} + kFloatNan : value;
  return float_of(value | sign);
}

/// `scale(i)`: of the lanes from column i on.
template <typename Format, typename Scale>
inline void dequantize_row(const uint8_t* codes, int64_t count, const Scale& scale, float* values) {
  for_each_vector(count,
                  [&](int64_t i) {
                    ByteVec bytes;
                    std::memcpy(&bytes, codes + i, sizeof bytes);
                    store(values + i, decode<Format>(__builtin_convertvector(bytes, IntVec)) * scale(i));
                  },
                  [&](int64_t i, int64_t n) {
                    ByteVec bytes{};
                    std::memcpy(&bytes, codes + i, static_cast<size_t>(n));
                    store_partial(values + i, decode<Format>(__builtin_convertvector(bytes, IntVec)) * scale(i), n);
                  });
}

template <typename Format>
inline void dequantize(fp8::Tile tile, const uint8_t* codes, int64_t code_stride, const float* scales, int64_t scale_stride, int64_t rows,
                       int64_t columns, float* values, int64_t value_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* row_scales = scales + r / tile.rows * scale_stride;
    if (tile.columns == 1) {
      dequantize_row<Format>(codes + r * code_stride, columns,
                             [&](int64_t i) { return i + kWidth <= columns ? load(row_scales + i) : load_partial(row_scales + i, columns - i); },
                             values + r * value_stride);
      continue;
    }
    for (int64_t c = 0; c < columns; c += tile.columns) {
      const int64_t width = c + tile.columns < columns ? tile.columns : columns - c;
      const Vec scale = broadcast(row_scales[c / tile.columns]);
      dequantize_row<Format>(codes + r * code_stride + c, width, [&](int64_t) { return scale; }, values + r * value_stride + c);
    }
  }
}

inline void fp8_dequantize(fp8::Format format, fp8::Tile tile, const uint8_t* codes, int64_t code_stride, const float* scales,
                           int64_t scale_stride, int64_t rows, int64_t columns, float* values, int64_t value_stride) {
  (format == fp8::Format::kE4m3 ? dequantize<E4m3> : dequantize<E5m2>)(tile, codes, code_stride, scales, scale_stride, rows, columns, values,
                                                                       value_stride);
}

}  // namespace tessera::kernels::TESSERA_ISA
