// Numbers that are hard to round to 8 bits.
#pragma once

#include <ATen/ops/empty.h>

#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <random>

namespace tessera::kernels::fp8 {

/// Rows of kinds: normal numbers, of any exponent, any bits at all, near ties and edges of the formats.
inline at::Tensor hard_numbers(int64_t rows, int64_t columns, uint64_t seed) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  std::mt19937_64 draw(seed);
  std::normal_distribution<float> normal;
  const float edges[] = {0.0f, -0.0f, 448.0f, 464.0f, 447.99997f, -448.0f, 0x1p-6f, 0x1p-7f, 0x1p-9f, 0x1p-10f, 0x1.8p-10f, 0x1.000002p-10f, 1.0625f,
                         1.0625001f, 1.1875f, 57344.0f, 61440.0f, 0x1p-14f, 0x1p-17f, 0x1p-126f, 0x1p-149f, 3.4028235e38f, -3.4028235e38f, 1.0f, -1.0f};
  at::Tensor x = at::empty({rows, columns});
  float* data = x.data_ptr<float>();
  for (int64_t r = 0; r < rows; ++r) {
    const int exponent = static_cast<int>(draw() % 240) - 130;
    for (int64_t c = 0; c < columns; ++c) {
      float& v = data[r * columns + c];
      switch (r % 8) {
        case 0: v = std::ldexp(normal(draw), exponent); break;
        case 1: v = std::bit_cast<float>(static_cast<uint32_t>(draw())); break;
        case 2: v = edges[draw() % std::size(edges)] * (draw() % 4 == 0 ? -1.0f : 1.0f); break;
        case 3: v = std::ldexp(static_cast<float>(static_cast<int>(draw() % 257) - 128), exponent); break;  // many ties
        case 4: v = draw() % 64 == 0 ? normal(draw) : 1e-3f * normal(draw); break;
        case 5: v = 0.0f; break;
        default: v = normal(draw);
      }
    }
    if (r % 16 == 7) data[r * columns + static_cast<int64_t>(draw() % static_cast<uint64_t>(columns))] = std::array{kInfinity, -kInfinity, kNan}[r / 16 % 3];
  }
  return x;
}

}  // namespace tessera::kernels::fp8
