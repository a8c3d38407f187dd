// AdamW over the slices of the flat buckets that this rank owns: float32 master weights, moments in float32 or bfloat16.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/optimizer.h"
#include "trainer/config.h"
#include "trainer/owned_slices.h"

namespace tessera::trainer {

class AdamW final {
 public:
  /// `weights`: all that lie in `buckets`, each once; buckets must outlive the optimizer. The noise of stochastic rounding depends on
  /// `seed`, the weight's name, the element and the step, not on the layout.
  AdamW(const std::vector<parallel::FlatBuckets*>& buckets, const std::vector<model::NamedWeight>& weights, const OptimizerConfig& config,
        uint64_t seed);

  /// Sum of squares of the gradients this rank owns.
  [[nodiscard]] double local_sum_of_squares() const;
  /// Updates the owned slices, the first layers' first, and starts the gather of each. `step` counts from 1; `gradient_scale`
  /// is the clipping factor.
  void step(double lr, int64_t step, double gradient_scale);

  /// What this rank owns of weights and moments, by Hugging Face name.
  [[nodiscard]] std::vector<checkpoint::OwnedRange> owned_ranges(const std::vector<model::NamedWeight>& weights) const;
  /// Fills this rank's masters and moments from a checkpoint of any layout, and from the masters the weights on every rank. Collective.
  void load(const std::vector<model::NamedWeight>& weights, checkpoint::CheckpointReader& reader);

 private:
  struct Run {  // owned elements of one weight: [begin, begin + count) of its bucket's slice
    size_t bucket = 0;
    int64_t begin = 0, count = 0;
    bool decay = true;
    uint64_t key = 0;   // of the weight's noise
    int64_t first = 0;  // which element of the weight comes first
  };
  [[nodiscard]] kernels::AdamWUpdate update_of(const Run& run, int64_t step) const;

  std::vector<parallel::FlatBuckets*> flat_;
  OwnedSlices owned_;
  OptimizerConfig config_;
  OwnedSlices::Slices exp_avg_, exp_avg_sq_;
  std::vector<std::vector<Run>> runs_;  // by bucket, in order
};

}  // namespace tessera::trainer
