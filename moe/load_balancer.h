// Balancing without a loss (DeepSeek-V3, section 2.1.2; arXiv 2408.15664): after each optimizer step the choice bias of an
// expert with more than its share of the step's tokens goes down by a fixed amount, of one with less up.
#pragma once

#include <vector>

#include "moe/router.h"
#include "parallel/communicator.h"

namespace tessera::moe {

/// The load of one layer in one step, over all ranks.
struct LayerLoad {
  std::vector<int64_t> counts;  // [E]
  /// The fullest expert's load above the mean, as a share of the mean.
  [[nodiscard]] double max_violation() const;
  /// Entropy of the experts' shares, divided by log E: 1 when all have the same.
  [[nodiscard]] double entropy() const;
};

class LoadBalancer final {
 public:
  /// `routers` of all layers, which must outlive the balancer; `bias_update_rate` is the paper's gamma.
  LoadBalancer(std::vector<Router*> routers, double bias_update_rate);

  /// Before a step's first micro-batch.
  void begin_step();
  /// After its last: sums the counts over the ranks of `dp`. Collective. One entry a router.
  [[nodiscard]] std::vector<LayerLoad> collect(parallel::Communicator& dp) const;
  /// Moves the biases; not to be called when the step's update is skipped. The same on every rank.
  void update(const std::vector<LayerLoad>& loads);

  /// This rank's sums over all layers, weights included.
  [[nodiscard]] double balance_loss() const;
  [[nodiscard]] double z_loss() const;
  [[nodiscard]] bool empty() const { return routers_.empty(); }

 private:
  std::vector<Router*> routers_;
  double rate_;
};

}  // namespace tessera::moe
