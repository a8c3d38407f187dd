// Completions that the model has drawn, and the training rows that are made of them.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/batch.h"
#include "rl/objectives.h"

namespace tessera::rl {

struct Rollout {
  int64_t prompt = 0;   // its number in the order of prompts
  int64_t index = 0;    // within the group
  std::vector<int32_t> prompt_tokens;
  std::vector<int32_t> tokens;        // the stop id included
  std::vector<float> log_probs;       // as they were drawn
  bool stopped = false;               // by itself
  double reward = 0, advantage = 0;
  bool usable = true;                 // has a reward
  bool trains = true;                 // its gradient may be other than zero
  int64_t place = 0;                  // among all rollouts of the phase
  // With routing replay, of one that trains: what the routers of this rank's layers chose.
  ExpertChoices experts = {};                                     // for the tokens; the last one's are -1
  std::shared_ptr<const ExpertChoices> prompt_experts = nullptr;  // shared by the group
};

/// This rank's rollouts of one optimizer step.
struct RolloutBatch {
  data::StepBatch batch;
  std::vector<PolicyBatch> policies;  // one a micro-batch; old and reference log-probabilities are filled in where they are needed
};

struct BatchPlan {
  int64_t per_microbatch = 1;    // rollouts
  int64_t num_microbatches = 1;  // the same on all ranks; the last ones may be empty
};

/// Rollouts that train, in their order, `per_microbatch` to a micro-batch; those of one prompt in a micro-batch share its tokens.
[[nodiscard]] RolloutBatch make_rollout_batch(const std::vector<Rollout>& rollouts, const BatchPlan& plan, int64_t step);

/// For checkpoints; without experts.
[[nodiscard]] std::vector<uint8_t> pack_rollouts(const std::vector<Rollout>& rollouts);
[[nodiscard]] std::vector<Rollout> unpack_rollouts(const std::vector<uint8_t>& bytes);

}  // namespace tessera::rl
