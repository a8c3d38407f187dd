// Which source a row comes from, by weight.
#pragma once

#include <cstdint>
#include <vector>

namespace tessera::data {

/// Deals global row indices to sources in a fixed, evenly interleaved pattern, so that every
/// stretch of rows has the shares that the weights ask for (to 1/10000), and any index is answered
/// alone.
class Mixture final {
 public:
  /// Positive weights; each gets at least one row in 10000.
  explicit Mixture(const std::vector<double>& weights);

  struct Place {
    int64_t source;
    int64_t ordinal;  // how many rows of this source come before
  };
  [[nodiscard]] Place place(int64_t index) const;

 private:
  std::vector<int32_t> source_of_slot_, rank_in_source_;
  std::vector<int64_t> quota_;
};

}  // namespace tessera::data
