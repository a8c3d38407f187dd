// A phase of rollouts: prompts to completions to rewards to advantages, on all ranks. Rollouts are dealt to the dp ranks in order; the
// ranks of a pipeline make the same ones together.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "inference/engine.h"
#include "parallel/mesh.h"
#include "rl/advantages.h"
#include "rl/config.h"
#include "rl/prompts.h"
#include "rl/rollout.h"
#include "trainer/stages.h"

namespace tessera::rl {

/// Of all rollouts of a phase, on all ranks the same.
struct PhaseStatistics {
  int64_t rollouts = 0, tokens = 0, usable = 0, truncated = 0, zero_advantage = 0, prompts_drawn = 0, resamples = 0;
  double reward = 0, reward_deviation = 0, length = 0;  // means over those with a reward
  std::vector<double> parts;                            // mean of each kind of reward
  double digest = 0;                                    // of all tokens, a whole number: equal for equal rollouts
  double rollout_seconds = 0, reward_seconds = 0;       // of this rank
};

struct Phase {
  std::vector<Rollout> rollouts;  // of this rank
  std::vector<int64_t> tokens;    // of all rollouts by place: those that count in denominators, 0 for one that teaches nothing whatever its advantage
  int64_t next_prompt = 0;        // of the order of prompts
  bool stale = false;             // made with the weights that the training on the phase before began with
  PhaseStatistics statistics;
  std::string samples;            // readable, of this rank's first group; empty unless asked for
};

/// A model that makes rollouts, and the ranks that it lies on.
struct Policy {
  inference::ModelLayout layout;
  const parallel::Mesh* mesh = nullptr;
  std::vector<int64_t> trained_layers = {};  // with experts, on this rank
  /// All layers with experts, where ranks train others than they generate with; else empty.
  std::vector<int64_t> exchanged_layers = {};
};
[[nodiscard]] Policy policy_of(const trainer::Stages& stages, const parallel::Mesh& mesh);

class RolloutMaker final {
 public:
  /// All that is referred to must outlive it. One thread at a time may use it.
  RolloutMaker(const RlConfig& config, const data::Tokenizer& tokenizer, std::vector<int32_t> stop_ids, uint64_t seed);

  /// Rollouts of `num_prompts` prompts from number `first_prompt` on. `done` hears of this rank's progress. Collective over the
  /// policy's mesh.
  Phase make(const Policy& policy, const Prompts& prompts, int64_t first_prompt, int64_t num_prompts, bool with_samples,
             const std::function<void(int64_t)>& done = {});
  /// Rewards of greedy completions of all prompts in order: means over them, of the total and then of each kind. Collective.
  std::vector<double> evaluate(const Policy& policy, const Prompts& prompts, const std::function<void(int64_t)>& done = {});
  /// Without what ended it.
  [[nodiscard]] std::string text_of(const Rollout& rollout) const;
  [[nodiscard]] const std::vector<std::string>& reward_names() const { return names_; }
  /// Completions whose reward failed since the beginning, of each kind, on this rank.
  [[nodiscard]] const std::vector<RewardSet::Failures>& failures() const { return rewards_->failures(); }

 private:
  struct Scored {  // of all rollouts, on all ranks
    std::vector<double> rewards;
    std::vector<std::vector<double>> parts;  // by kind
    std::vector<bool> usable, stopped;
    std::vector<int64_t> lengths;
    double digest = 0;
  };
  struct Wanted {
    const Prompt* prompt = nullptr;
    int64_t number = 0, index = 0;  // of the prompt, within the group
  };

  /// Completes this rank's share of `wanted`.
  std::vector<Rollout> complete(const Policy& policy, const std::vector<Wanted>& wanted, const inference::SamplingConfig& sampling,
                                const std::function<void(int64_t)>& done) const;
  Scored score(const parallel::Mesh& mesh, const std::vector<Wanted>& wanted, const std::vector<Rollout>& mine);
  [[nodiscard]] inference::SamplingConfig sampling() const;
  void count(const Scored& scored, const std::vector<double>& advantages, PhaseStatistics& statistics) const;
  [[nodiscard]] std::string describe(const std::vector<Wanted>& wanted, size_t begin, const std::vector<Rollout>& mine, const Scored& scored) const;

  const RlConfig& config_;
  const data::Tokenizer& tokenizer_;
  std::vector<int32_t> stop_ids_;
  uint64_t seed_;
  std::unique_ptr<RewardSet> rewards_;
  std::vector<std::string> names_;
};

}  // namespace tessera::rl
