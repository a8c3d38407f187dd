#include "data/mixture.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace tessera::data {

Mixture::Mixture(const std::vector<double>& weights) {
  TESSERA_CHECK(!weights.empty(), "a mixture of nothing");
  const size_t sources = weights.size();
  const int64_t block = sources == 1 ? 1 : std::max<int64_t>(10'000, static_cast<int64_t>(sources));
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  // Largest remainders; every source gets a row.
  quota_.resize(sources);
  std::vector<std::pair<double, size_t>> remainders;
  int64_t given = 0;
  for (size_t k = 0; k < sources; ++k) {
    TESSERA_CHECK(weights[k] > 0, "a weight must be positive");
    const double exact = weights[k] / sum * static_cast<double>(block);
    quota_[k] = std::max<int64_t>(1, static_cast<int64_t>(exact));
    given += quota_[k];
    remainders.emplace_back(static_cast<double>(quota_[k]) - exact, k);
  }
  std::sort(remainders.begin(), remainders.end());
  for (size_t i = 0; given < block; ++i, ++given) ++quota_[remainders[i % sources].second];
  for (; given > block; --given) --*std::max_element(quota_.begin(), quota_.end());
  // Smooth weighted round robin: each slot goes to the source that is furthest behind.
  std::vector<int64_t> credit(sources, 0);
  std::vector<int32_t> used(sources, 0);
  for (int64_t slot = 0; slot < block; ++slot) {
    for (size_t k = 0; k < sources; ++k) credit[k] += quota_[k];
    const auto best =
        static_cast<size_t>(std::max_element(credit.begin(), credit.end()) - credit.begin());
    credit[best] -= block;
    source_of_slot_.push_back(static_cast<int32_t>(best));
    rank_in_source_.push_back(used[best]++);
  }
  for (size_t k = 0; k < sources; ++k)
    TESSERA_CHECK(used[k] == quota_[k], "the pattern misses its quota");
}

Mixture::Place Mixture::place(int64_t index) const {
  TESSERA_CHECK(index >= 0, "a negative row index");
  const auto block = static_cast<int64_t>(source_of_slot_.size());
  const auto slot = static_cast<size_t>(index % block);
  const int64_t source = source_of_slot_[slot];
  return {source, index / block * quota_[static_cast<size_t>(source)] + rank_in_source_[slot]};
}

}  // namespace tessera::data
