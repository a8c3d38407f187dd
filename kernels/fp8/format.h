// The 8-bit floating-point formats (arXiv 2209.05433), bfloat16 beside them, and what shares a scale. Plain data, for raw kernels too.
#pragma once

#include <cstdint>

namespace tessera::kernels::fp8 {

enum class Format : uint8_t {
  kE4m3,  // float8_e4m3fn: 4 exponent bits, 3 of mantissa; largest 448, no infinity
  kE5m2,  // float8_e5m2: 5 and 2; largest 57344
  kBfloat16,  // no scales: tiles mean nothing
};

/// Elements of a matrix that share a scale. 0: all rows, or all columns.
struct Tile {
  int64_t rows = 0, columns = 0;
  bool operator==(const Tile&) const = default;
  [[nodiscard]] constexpr bool whole() const { return rows == 0 && columns == 0; }
};

/// How a matrix is quantised. The scale of a tile is amax / largest, amax the largest magnitude of its finite elements; at
/// least 2^-126, so that its inverse is finite; 1 where amax is 0.
struct Scheme {
  Format format = Format::kE4m3;
  Tile tile;
  bool power_of_two_scales = false;  // rounded up to the next power of two
  [[nodiscard]] constexpr bool scaled() const { return format != Format::kBfloat16; }
};

/// Where a quantiser writes; what is null is not wanted. Strides in elements.
struct Sink {
  uint8_t* codes = nullptr;  // the 8-bit values
  int64_t code_stride = 0;
  float* scales = nullptr;  // one a tile
  int64_t scale_stride = 0;
  float* values = nullptr;  // codes times scales, in float32: may be the quantiser's input
  int64_t value_stride = 0;
};

}  // namespace tessera::kernels::fp8
