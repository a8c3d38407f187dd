// Quantisation written out plainly: a search among all codes of a format, element by element.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/fp8/quantize.h"

namespace tessera::kernels::fp8 {

class PlainFormat {
 public:
  explicit PlainFormat(Format format) : format_(format) {
    for (int code = 0; code <= largest_code(); ++code) {
      const int mantissa_bits = format == Format::kE4m3 ? 3 : 2, bias = format == Format::kE4m3 ? 7 : 15;
      const int exponent = code >> mantissa_bits, mantissa = code & ((1 << mantissa_bits) - 1);
      positive_.push_back(exponent == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                                        : std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits));
    }
  }
  [[nodiscard]] double largest() const { return positive_.back(); }

  [[nodiscard]] uint8_t encode(float y) const {
    const auto sign = static_cast<uint8_t>(std::signbit(y) ? 0x80 : 0);
    if (std::isnan(y)) return sign | 0x7F;
    if (std::isinf(y)) return sign | (format_ == Format::kE4m3 ? 0x7F : 0x7C);
    const double magnitude = std::abs(static_cast<double>(y));
    const auto above = static_cast<size_t>(std::lower_bound(positive_.begin(), positive_.end(), magnitude) - positive_.begin());
    if (above == positive_.size()) return sign | static_cast<uint8_t>(largest_code());
    if (above == 0) return sign;
    const double up = positive_[above] - magnitude, down = magnitude - positive_[above - 1];
    const bool take_upper = up < down || (up == down && above % 2 == 0);
    return sign | static_cast<uint8_t>(take_upper ? above : above - 1);
  }

  [[nodiscard]] float decode(uint8_t code) const {
    const float sign = (code & 0x80) != 0 ? -1.0f : 1.0f;
    const int magnitude = code & 0x7F;
    if (magnitude <= largest_code()) return sign * static_cast<float>(positive_[static_cast<size_t>(magnitude)]);
    if (format_ == Format::kE5m2 && magnitude == 0x7C) return sign * std::numeric_limits<float>::infinity();
    return std::numeric_limits<float>::quiet_NaN();
  }

  [[nodiscard]] float scale(float largest_magnitude, bool power_of_two) const {
    if (largest_magnitude == 0) return 1.0f;
    float scale = std::max(largest_magnitude / static_cast<float>(largest()), 0x1p-126f);
    if (power_of_two) {
      int exponent = 0;
      const float fraction = std::frexp(scale, &exponent);  // in [1/2, 1)
      scale = std::ldexp(1.0f, fraction == 0.5f ? exponent - 1 : exponent);
    }
    return scale;
  }

 private:
  [[nodiscard]] int largest_code() const { return format_ == Format::kE4m3 ? 0x7E : 0x7B; }

  Format format_;
  std::vector<double> positive_;
};

struct PlainResult {
  std::vector<uint8_t> codes;
  std::vector<float> scales, values;
};

/// x: [rows, columns]; tiles along the rows begin anew at `starts`, for which scales are not given back.
inline PlainResult plain_quantize(const float* x, int64_t rows, int64_t columns, Scheme scheme, std::vector<int64_t> starts = {0}) {
  const PlainFormat format(scheme.format);
  const int64_t tile_rows = scheme.tile.rows == 0 ? rows : scheme.tile.rows, tile_columns = scheme.tile.columns == 0 ? columns : scheme.tile.columns;
  PlainResult result{std::vector<uint8_t>(static_cast<size_t>(rows * columns)), {}, std::vector<float>(static_cast<size_t>(rows * columns))};
  starts.push_back(rows);
  for (size_t run = 0; run + 1 < starts.size(); ++run)
    for (int64_t r = starts[run]; r < starts[run + 1]; r += tile_rows)
      for (int64_t c = 0; c < columns; c += tile_columns) {
        float largest = 0;
        const int64_t r_end = std::min(r + tile_rows, starts[run + 1]), c_end = std::min(c + tile_columns, columns);
        for (int64_t i = r; i < r_end; ++i)
          for (int64_t j = c; j < c_end; ++j)
            if (std::isfinite(x[i * columns + j])) largest = std::max(largest, std::abs(x[i * columns + j]));
        const float scale = format.scale(largest, scheme.power_of_two_scales), inverse = 1.0f / scale;
        result.scales.push_back(scale);
        for (int64_t i = r; i < r_end; ++i)
          for (int64_t j = c; j < c_end; ++j) {
            const float v = x[i * columns + j];
            const auto at = static_cast<size_t>(i * columns + j);
            result.codes[at] = format.encode(std::isfinite(v) ? v * inverse : v);
            result.values[at] = format.decode(result.codes[at]) * scale;
          }
      }
  return result;
}

/// Bits equal, but for those of NaN.
inline int64_t different(const float* a, const std::vector<float>& b) {
  int64_t count = 0;
  for (size_t i = 0; i < b.size(); ++i)
    count += std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i]) && !(std::isnan(a[i]) && std::isnan(b[i]));
  return count;
}

inline int64_t different(const uint8_t* a, const std::vector<uint8_t>& b) {
  int64_t count = 0;
  for (size_t i = 0; i < b.size(); ++i) count += a[i] != b[i] && !((a[i] & 0x7F) == 0x7F && (b[i] & 0x7F) == 0x7F);
  return count;
}

}  // namespace tessera::kernels::fp8
