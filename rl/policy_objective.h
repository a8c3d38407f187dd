// A step's policy objective as the trainer asks for it, micro-batch by micro-batch; and the one that only listens.
#pragma once

#include <utility>
#include <vector>

#include "parallel/communicator.h"
#include "rl/rollout.h"
#include "trainer/objective.h"

namespace tessera::rl {

class PolicyObjective final : public trainer::Objective {
 public:
  /// `batches`: of this rank's micro-batches; must outlive it.
  PolicyObjective(const PolicyConfig& config, const PolicyDenominators& denominators, double temperature, const std::vector<PolicyBatch>& batches)
      : config_(config), denominators_(denominators), temperature_(temperature), batches_(batches) {}

  [[nodiscard]] double temperature() const override { return temperature_; }
  double weigh(size_t microbatch, const float* log_probs, const float* entropies, float* weights) override;
  /// Of all ranks. Collective.
  [[nodiscard]] PolicyStatistics collect(parallel::Communicator& world) const;

 private:
  const PolicyConfig& config_;
  PolicyDenominators denominators_;
  double temperature_;
  const std::vector<PolicyBatch>& batches_;
  PolicyStatistics statistics_;
};

/// Keeps the log-probabilities of every micro-batch.
class LogProbRecorder final : public trainer::Objective {
 public:
  LogProbRecorder(double temperature, const std::vector<PolicyBatch>& batches);

  [[nodiscard]] double temperature() const override { return temperature_; }
  double weigh(size_t microbatch, const float* log_probs, const float* entropies, float* weights) override;
  /// One list a micro-batch, on all ranks of the pipeline, of which one or another had the last stage. Collective.
  [[nodiscard]] std::vector<std::vector<float>> collect(parallel::Communicator& pipeline);

 private:
  double temperature_;
  std::vector<std::vector<float>> log_probs_;
};

}  // namespace tessera::rl
