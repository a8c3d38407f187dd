// AdamW over the slices of the flat buckets that this rank owns: float32 master weights and moments.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "trainer/config.h"
#include "trainer/owned_slices.h"

namespace tessera::trainer {

class AdamW final {
 public:
  /// `buckets` must outlive the optimizer.
  AdamW(const std::vector<parallel::FlatBuckets*>& buckets, const OptimizerConfig& config);

  /// Sum of squares of the gradients this rank owns.
  [[nodiscard]] double local_sum_of_squares() const;
  /// Updates the owned slices, the first layers' first, and starts the gather of each. `step` counts from 1; `gradient_scale`
  /// is the clipping factor.
  void step(double lr, int64_t step, double gradient_scale);

  /// What this rank owns of weights and moments, by Hugging Face name.
  [[nodiscard]] std::vector<checkpoint::OwnedRange> owned_ranges(const std::vector<model::NamedWeight>& weights) const;
  /// Fills weights (whole, on every rank) and this rank's moments from a checkpoint of any layout.
  void load(const std::vector<model::NamedWeight>& weights, checkpoint::CheckpointReader& reader);

 private:
  struct Run {  // owned elements [begin, end) of one bucket with the same weight decay, counted from the first owned one
    size_t bucket = 0;
    int64_t begin = 0, end = 0;
    bool decay = true;
  };
  std::vector<parallel::FlatBuckets*> flat_;
  OwnedSlices owned_;
  OptimizerConfig config_;
  OwnedSlices::Slices exp_avg_, exp_avg_sq_;
  std::vector<Run> runs_;
};

}  // namespace tessera::trainer
