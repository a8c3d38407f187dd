// A recipe's communication without the ranks: one process takes the place of one of them, makes its batches, mesh, stages and
// buckets, and goes through the exchanges of its steps over a communicator that counts and moves nothing. No parameter has
// memory, so that models larger than the machine can be planned.
#pragma once

#include <cstdint>
#include <vector>

#include "data/dataset.h"
#include "trainer/communication_log.h"
#include "trainer/config.h"

namespace tessera::plan {

struct DryRunOptions {
  int world_size = 1, rank = 0;
  int64_t steps = 1;
  /// The exchanges of tokens of that rank in a run of the recipe, a record a step; without, experts are taken to be chosen
  /// evenly and independently.
  const std::vector<trainer::CommunicationRecord>* replay = nullptr;
};

/// What the rank would send in each of the first steps: a record a step. Throws ConfigError when the recipe does not fit the
/// world, or the replayed run not the recipe.
[[nodiscard]] std::vector<trainer::CommunicationRecord> dry_run(const trainer::TrainerConfig& config, const data::Dataset& data,
                                                                const DryRunOptions& options);

/// The expected rows of a rank with `tokens` tokens whose `choices` experts out of num_experts are drawn evenly, to and from
/// each of the `members` that hold equal shares of them.
[[nodiscard]] moe::Passage expected_passage(int64_t tokens, int64_t members, int64_t num_experts, int64_t choices);

}  // namespace tessera::plan
