// Random choices for one problem, each from the counter-based generator. Private to data/tasks/.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "core/random.h"

namespace tessera::data {

class Draw final {
 public:
  Draw(uint64_t seed, uint32_t site, uint64_t index, uint32_t attempt)
      : seed_(seed), site_(site), index_(index), counter_(attempt * 64) {}

  /// Uniform in [0, n).
  int64_t below(int64_t n) {
    return static_cast<int64_t>(random_bits(seed_, site_, index_, counter_++) % static_cast<uint64_t>(n));
  }
  /// Uniform in [low, high].
  int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }

  template <typename T, size_t N>
  const T& pick(const std::array<T, N>& choices) {
    return choices[static_cast<size_t>(below(static_cast<int64_t>(N)))];
  }

 private:
  uint64_t seed_;
  uint32_t site_;
  uint64_t index_;
  uint32_t counter_;
};

}  // namespace tessera::data
