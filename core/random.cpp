#include "core/random.h"

#include <cmath>
#include <numbers>

#include "core/error.h"

namespace tessera {

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{kMultiplier0} * counter[0];
    const uint64_t p1 = uint64_t{kMultiplier1} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

namespace {
std::array<uint32_t, 4> draw(uint64_t seed, uint32_t site, uint64_t a, uint32_t b) {
  return philox4x32({static_cast<uint32_t>(a), static_cast<uint32_t>(a >> 32), b, site},
                    {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
}
}  // namespace

uint64_t random_bits(uint64_t seed, uint32_t site, uint64_t a, uint32_t b) {
  const auto r = draw(seed, site, a, b);
  return (uint64_t{r[1]} << 32) | r[0];
}

double random_uniform(uint64_t seed, uint32_t site, uint64_t a, uint32_t b) {
  return static_cast<double>(random_bits(seed, site, a, b) >> 11) * 0x1.0p-53;
}

void random_normal(uint64_t seed, uint32_t site, uint64_t first, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t index = first + static_cast<uint64_t>(i);
    const auto r = draw(seed, site, index / 2, 0);
    const double u = (r[0] + 1.0) * 0x1.0p-32;  // (0, 1], so that the logarithm is finite
    const double angle = 2.0 * std::numbers::pi * r[1] * 0x1.0p-32;
    const double radius = std::sqrt(-2.0 * std::log(u));
    out[i] = static_cast<float>(index % 2 == 0 ? radius * std::cos(angle) : radius * std::sin(angle));
  }
}

uint64_t permute_index(uint64_t seed, uint64_t epoch, uint64_t i, uint64_t n) {
  TESSERA_CHECK(i < n, "index ", i, " outside [0, ", n, ")");
  if (n == 1) return 0;
  int bits = 0;
  while (bits < 64 && (n - 1) >> bits != 0) ++bits;
  const int half = (bits + 1) / 2;
  const uint64_t mask = (uint64_t{1} << half) - 1;
  constexpr uint32_t kSite = 0x50455231;  // "PER1"
  uint64_t x = i;
  do {
    uint64_t left = x >> half, right = x & mask;
    for (uint32_t round = 0; round < 6; ++round) {
      const uint64_t next = left ^ (random_bits(seed ^ (epoch * 0x9E3779B97F4A7C15), kSite, right, round) & mask);
      left = right;
      right = next;
    }
    x = (left << half) | right;
  } while (x >= n);
  return x;
}

}  // namespace tessera
