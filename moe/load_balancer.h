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
  /// `routers`: those of this rank, which must outlive the balancer. `layers`: the numbers of all layers with experts, on
  /// whatever rank; `num_experts`: of each. `bias_update_rate` is the paper's gamma.
  LoadBalancer(std::vector<LayerRouter> routers, std::vector<int64_t> layers, int64_t num_experts, double bias_update_rate);

  /// Before a step's first micro-batch.
  void begin_step();
  /// After its last: sums the counts over all ranks of `world`. Collective. One entry for each of `layers`.
  [[nodiscard]] std::vector<LayerLoad> collect(parallel::Communicator& world) const;
  /// Moves the biases; not to be called when the step's update is skipped. The same on every rank.
  void update(const std::vector<LayerLoad>& loads);

  /// This rank's sums over all layers, weights included.
  [[nodiscard]] double balance_loss() const;
  [[nodiscard]] double z_loss() const;
  /// Whether the model has no experts.
  [[nodiscard]] bool empty() const { return layers_.empty(); }

 private:
  [[nodiscard]] size_t place(const LayerRouter& router) const;

  std::vector<LayerRouter> routers_;
  std::vector<int64_t> layers_;
  int64_t num_experts_;
  double rate_;
};

}  // namespace tessera::moe
