// Reinforcement learning with verifiable rewards: rollouts by the model as it is (or, with staleness,
// as it was a phase before), then a step or several on them. Read train() in
// reinforcement.cpp first; it is the table of contents.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "rl/policy_objective.h"
#include "rl/rollouts.h"
#include "rl/stale_rollouts.h"
#include "trainer/learner.h"
#include "trainer/weight_snapshot.h"

namespace tessera::rl {

class Reinforcement final {
 public:
  /// Collective over `world`.
  Reinforcement(trainer::TrainerConfig config, RlConfig rl, trainer::TrainOptions options, parallel::Communicator& world);

  /// Trains to the last step or until asked to stop; both end with a checkpoint. Throws CommError, CheckpointError, ConfigError.
  trainer::TrainEnd train();

 private:
  void load();
  void read_state(checkpoint::CheckpointReader& reader, const nlohmann::json& values);
  [[nodiscard]] trainer::RunState state();
  void begin_phase(int64_t step);
  void collect_rollouts();
  std::vector<double> evaluate();
  void save(int64_t step);
  /// The next mini-batch of the phase, with what its objective needs.
  RolloutBatch next_batch(int64_t step);
  void fill_log_probs(RolloutBatch& batch);
  std::vector<std::vector<float>> log_probs(const RolloutBatch& batch);
  void report(int64_t step, const trainer::StepResult& result, const PolicyStatistics& policy, const std::vector<double>& validation);
  [[nodiscard]] PolicyDenominators denominators() const;
  [[nodiscard]] Policy live_policy() { return policy_of(learner_.stages(), learner_.mesh()); }
  [[nodiscard]] bool shows_samples(int64_t step) const { return rl_.samples_every > 0 && step % rl_.samples_every == 0; }
  [[nodiscard]] bool has_reference() const { return rl_.kl_coefficient > 0; }
  [[nodiscard]] int64_t rollouts_per_step() const { return config_.train.sequences_per_step; }
  [[nodiscard]] bool evaluates_at(int64_t step) const;

  trainer::Learner learner_;
  const trainer::TrainerConfig& config_;
  RlConfig rl_;
  PolicyConfig policy_;
  std::unique_ptr<data::Tokenizer> tokenizer_;
  std::optional<data::ChatTemplate> chat_template_;
  std::unique_ptr<Prompts> prompts_, validation_;
  std::unique_ptr<RolloutMaker> maker_;
  std::unique_ptr<trainer::WeightSnapshot> reference_;  // null without a KL term
  std::unique_ptr<StaleRollouts> beside_;  // null without staleness
  Phase phase_;
  std::optional<Phase> next_phase_;  // made beside the training on phase_
  int64_t updates_made_ = 0;  // on the phase's rollouts
  int64_t next_prompt_ = 0;    // behind all rollouts that were made
  double wait_seconds_ = 0;    // that training stood still for rollouts, since the last line of metrics
};

}  // namespace tessera::rl
