#include "data/packing.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "core/error.h"

namespace tessera::data {

Packing pack_best_fit(const std::vector<int32_t>& lengths, int64_t capacity, int64_t window) {
  Packing packing;
  const auto total = static_cast<int64_t>(lengths.size());
  std::vector<int64_t> sorted;
  for (int64_t first = 0; first < total; first += window) {
    sorted.resize(static_cast<size_t>(std::min(window, total - first)));
    std::iota(sorted.begin(), sorted.end(), first);
    const auto length_of = [&](int64_t piece) { return lengths[static_cast<size_t>(piece)]; };
    std::stable_sort(sorted.begin(), sorted.end(),
                     [&](int64_t a, int64_t b) { return length_of(a) > length_of(b); });
    std::vector<std::vector<int64_t>> rows;
    std::map<int64_t, std::vector<size_t>> by_space;  // free tokens -> rows
    for (const int64_t piece : sorted) {
      const int64_t length = length_of(piece);
      TESSERA_CHECK(length > 0 && length <= capacity, "a piece of ", length, " tokens for rows of ",
                    capacity);
      const auto best = by_space.lower_bound(length);
      size_t row = rows.size();
      int64_t space = capacity;
      if (best == by_space.end()) {
        rows.emplace_back();
      } else {
        space = best->first;
        row = best->second.back();
        best->second.pop_back();
        if (best->second.empty()) by_space.erase(best);
      }
      rows[row].push_back(piece);
      if (space > length) by_space[space - length].push_back(row);
    }
    for (const auto& row : rows) {
      packing.order.insert(packing.order.end(), row.begin(), row.end());
      packing.row_begin.push_back(static_cast<int64_t>(packing.order.size()));
    }
  }
  return packing;
}

Packing one_per_row(int64_t pieces) {
  Packing packing;
  packing.order.resize(static_cast<size_t>(pieces));
  std::iota(packing.order.begin(), packing.order.end(), 0);
  packing.row_begin.resize(static_cast<size_t>(pieces) + 1);
  std::iota(packing.row_begin.begin(), packing.row_begin.end(), 0);
  return packing;
}

}  // namespace tessera::data
