// One dp rank's batches, made ahead of time by a thread.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "data/batch.h"
#include "data/dataset.h"

namespace tessera::data {

struct StepPlan {
  int64_t sequences_per_step = 1;        // rows of all ranks
  int64_t ramp_from = 0;                 // rows of step 0, growing linearly to sequences_per_step
  int64_t ramp_steps = 0;                // over so many steps; 0 = no ramp
  int64_t sequences_per_microbatch = 1;  // rows
  int dp_rank = 0;
  int dp_size = 1;
  int64_t first_step = 0;
  int64_t microbatch_multiple =
      1;  // what the pipeline schedule needs: filled up with empty micro-batches
  int64_t min_microbatches = 1;
};

/// Rows [first, second) of `rows` that dp rank `rank` of `size` gets: contiguous, as even as
/// possible.
[[nodiscard]] std::pair<int64_t, int64_t> deal_rows(int64_t rows, int rank, int size);

/// Rows of `step`, over all ranks.
[[nodiscard]] int64_t rows_of_step(const StepPlan& plan, int64_t step);

/// Rows of all steps before `step`.
[[nodiscard]] int64_t rows_before(const StepPlan& plan, int64_t step);

/// Micro-batches of every rank in a step of so many rows.
[[nodiscard]] int64_t num_microbatches(const StepPlan& plan, int64_t rows);

/// Steps take the dataset's rows one after the other, whatever the mesh: step s those from rows_before(s).
class StepLoader final {
 public:
  /// `dataset` must outlive the loader. Throws ConfigError for a plan with no rows or a bad rank.
  StepLoader(const Dataset& dataset, const StepPlan& plan);
  ~StepLoader();
  StepLoader(const StepLoader&) = delete;
  StepLoader& operator=(const StepLoader&) = delete;

  /// The next step's share of this rank; the first is plan.first_step. Rethrows what went wrong in
  /// the thread.
  [[nodiscard]] StepBatch next();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The batch of one step, made at once.
[[nodiscard]] StepBatch make_step(const Dataset& dataset, const StepPlan& plan, int64_t step);

/// All rows of a validation set once, in order, dealt to dp ranks; the same number of micro-batches
/// on each.
[[nodiscard]] std::vector<MicroBatch> validation_batches(const Dataset& dataset,
                                                         int64_t sequences_per_microbatch,
                                                         int dp_rank, int dp_size);

}  // namespace tessera::data
