// The sections of a recipe that reinforcement learning reads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "rl/rewards/reward.h"

namespace tessera::rl {

struct RlConfig {
  int64_t rollouts_per_prompt = 8;
  int64_t max_new_tokens = 256;
  double temperature = 1.0;
  double top_p = 1.0;
  std::vector<std::string> stop;  // texts that end a completion, besides the model's own end
  int64_t generation_batch = 64;  // sequences at a time and rank

  std::string objective = "grpo";   // grpo | r1_grpo | dr_grpo | dapo | gspo | cispo
  std::string advantage = "group";  // what a reward is compared with: group | batch | leave_one_out
  bool scale_advantage = true;      // by the deviation of the rewards; never in dr_grpo
  double clip_low = 0.2, clip_high = 0.2;
  double kl_coefficient = 0;          // of the divergence from a reference
  int64_t reference_refresh_every = 0;  // steps; 0: the reference stays the first model
  int64_t updates_per_rollout = 1;    // mini-batches that a phase of rollouts is cut into
  double importance_cap = 0;          // truncated importance sampling against the rollouts' log-probabilities; 0: none
  bool mask_truncated = false;        // completions that were cut off teach nothing
  bool skip_zero_advantage = true;
  bool dynamic_sampling = false;      // groups of equal rewards are replaced by new prompts
  int64_t max_resamples = 10;         // times
  int64_t staleness = 0;              // 1: rollouts are made beside the step before, with the weights it began with
  bool routing_replay = false;        // training takes the experts that the rollouts took
  int64_t samples_every = 0;          // steps between completions written as text; 0: none
  std::vector<RewardConfig> rewards;

  /// Throws ConfigError naming the key.
  void validate() const;
};

}  // namespace tessera::rl
