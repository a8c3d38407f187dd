// Which pieces of documents share a row.
#pragma once

#include <cstdint>
#include <vector>

namespace tessera::data {

/// Rows as lists of piece indices: row r holds order[row_begin[r]], ..., order[row_begin[r + 1] -
/// 1].
struct Packing {
  std::vector<int64_t> row_begin{0};
  std::vector<int64_t> order;
  [[nodiscard]] int64_t num_rows() const { return static_cast<int64_t>(row_begin.size()) - 1; }
};

/// Best-fit-decreasing bin packing of lengths in [1, capacity] into rows of at most `capacity`, a
/// window of `window` pieces at a time. Deterministic; O(n log n).
[[nodiscard]] Packing pack_best_fit(const std::vector<int32_t>& lengths, int64_t capacity,
                                    int64_t window = 1 << 17);

/// One piece a row, in order.
[[nodiscard]] Packing one_per_row(int64_t pieces);

}  // namespace tessera::data
