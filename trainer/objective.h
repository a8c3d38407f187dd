// What a step minimises, where that is not the mean cross-entropy of its targets.
#pragma once

#include <cstddef>

namespace tessera::trainer {

class Objective {
 public:
  virtual ~Objective() = default;
  [[nodiscard]] virtual double temperature() const { return 1; }
  /// Of micro-batch `microbatch` of this rank's step: log_probs and entropies [N] of its targets under the current weights. Writes
  /// minus the derivative of the loss by each log_prob into weights [N], and returns the micro-batch's share of the loss.
  virtual double weigh(size_t microbatch, const float* log_probs, const float* entropies, float* weights) = 0;
};

}  // namespace tessera::trainer
