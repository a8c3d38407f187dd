#include "data/batch.h"

#include "core/error.h"

namespace tessera::data {

namespace {
void append_row(const Row& row, MicroBatch& batch) {
  TESSERA_CHECK(row.loss_mask.size() == row.tokens.size(), "loss mask and tokens differ in length");
  const auto offset = static_cast<int64_t>(batch.tokens.size());
  const auto first_segment = static_cast<int64_t>(batch.segments.size());
  if (!row.tokens.empty()) batch.row_starts.push_back(offset);
  batch.tokens.insert(batch.tokens.end(), row.tokens.begin(), row.tokens.end());
  append_choices(batch.experts, row.experts);
  int64_t expected = 0;
  for (const Segment& segment : row.segments) {
    TESSERA_CHECK(segment.start == expected && segment.length > 0,
                  "segments must cover the row in order");
    TESSERA_CHECK(segment.parent < static_cast<int64_t>(batch.segments.size()) - first_segment,
                  "a parent comes before its children");
    expected += segment.length;
    int64_t before_first = -1;  // the token that predicts the segment's first one
    if (segment.parent >= 0) {
      const Segment& parent = row.segments[static_cast<size_t>(segment.parent)];
      before_first = parent.start + parent.length - 1;
    }
    for (int64_t i = 0; i < segment.length; ++i) {
      const int64_t token = segment.start + i;
      batch.positions.push_back(static_cast<int32_t>(segment.first_position + i));
      const int64_t source = i > 0 ? token - 1 : before_first;
      if (row.loss_mask[static_cast<size_t>(token)] == 0 || source < 0) continue;
      batch.target_sources.push_back(offset + source);
      batch.targets.push_back(row.tokens[static_cast<size_t>(token)]);
    }
    batch.segments.push_back({offset + segment.start, segment.length, segment.first_position,
                              segment.parent < 0 ? -1 : first_segment + segment.parent});
  }
  TESSERA_CHECK(expected == static_cast<int64_t>(row.tokens.size()), "segments must cover the row");
}
}  // namespace

MicroBatch make_micro_batch(const std::vector<Row>& rows) {
  MicroBatch batch;
  size_t tokens = 0;
  for (const Row& row : rows) tokens += row.tokens.size();
  batch.tokens.reserve(tokens);
  batch.positions.reserve(tokens);
  for (const Row& row : rows) append_row(row, batch);
  return batch;
}

}  // namespace tessera::data
