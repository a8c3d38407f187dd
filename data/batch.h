// Rows, segments, micro-batches, steps: what the data pipeline hands to the model and the objectives. Holds no tensors,
// so that tokenising and packing know nothing of LibTorch.
//
// A row is a list of segments over its tokens. A segment attends causally to itself and wholly to its parent; a document
// is a segment without parent, positions from 0. Rows of one micro-batch are laid end to end without padding.
#pragma once

#include <cstdint>
#include <vector>

#include "core/expert_choices.h"
#include "core/segment.h"

namespace tessera::data {

using tessera::Segment;

/// One training row: packed documents, or one document.
struct Row {
  std::vector<int32_t> tokens;
  std::vector<uint8_t> loss_mask;  // 1 = a target; never for the first token of a document
  std::vector<Segment> segments;   // in token order, covering all tokens
  ExpertChoices experts = {};      // to take instead of choosing; empty: the router chooses
};

/// Rows laid end to end; `segments` index into `tokens`. May be empty: empty micro-batches take part in every exchange.
struct MicroBatch {
  std::vector<int32_t> tokens;           // [T]
  std::vector<int32_t> positions;        // [T] position ids for RoPE
  std::vector<Segment> segments;         // in token order
  std::vector<int64_t> row_starts;       // first token of each row
  std::vector<int64_t> target_sources;   // [N] index of the token whose output predicts the target
  std::vector<int32_t> targets;          // [N] target ids
  ExpertChoices experts = {};            // the rows'
};

/// One rank's share of one optimizer step.
struct StepBatch {
  int64_t step = 0;
  std::vector<MicroBatch> micro_batches;  // the same number on every rank
  int64_t num_tokens = 0;                 // of this rank
  int64_t num_targets = 0;                // of this rank
};

/// Lays rows end to end and lists the targets: for a masked token that is not first in its segment the source is the
/// token before it; first in a segment with a parent, the parent's last token.
[[nodiscard]] MicroBatch make_micro_batch(const std::vector<Row>& rows);

}  // namespace tessera::data
