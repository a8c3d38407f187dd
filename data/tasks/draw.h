// Random choices for one problem, each from the counter-based generator. Private to data/tasks/.
#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/random.h"

namespace tessera::data {

class Draw final {
 public:
  Draw(uint64_t seed, uint32_t site, uint64_t index, uint32_t attempt)
      : seed_(seed), site_(site), index_(index), counter_(attempt * kChoices), end_(counter_ + kChoices) {}

  /// Uniform in [0, n).
  int64_t below(int64_t n) {
    TESSERA_CHECK(counter_ != end_, "a problem takes more than ", kChoices, " choices");
    return static_cast<int64_t>(random_bits(seed_, site_, index_, counter_++) % static_cast<uint64_t>(n));
  }
  /// Uniform in [low, high].
  int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }

  template <typename T, size_t N>
  const T& pick(const std::array<T, N>& choices) {
    return choices[static_cast<size_t>(below(static_cast<int64_t>(N)))];
  }

  /// `count` of the choices, none twice, in random order.
  template <typename T, size_t N>
  std::vector<T> several(const std::array<T, N>& choices, int64_t count) {
    std::vector<T> rest(choices.begin(), choices.end());
    for (int64_t i = 0; i < count; ++i) {
      std::swap(rest[static_cast<size_t>(i)], rest[static_cast<size_t>(between(i, static_cast<int64_t>(N) - 1))]);
    }
    rest.resize(static_cast<size_t>(count));
    return rest;
  }

 private:
  static constexpr uint32_t kChoices = 64;  // that one attempt may make, so that attempts stay independent

  uint64_t seed_;
  uint32_t site_;
  uint64_t index_;
  uint32_t counter_;
  uint32_t end_;
};

}  // namespace tessera::data
