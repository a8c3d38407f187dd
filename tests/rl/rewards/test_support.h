#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rl/rewards/reward.h"

namespace tessera::rl {

/// What one completion is worth.
inline RewardResult score_one(Reward& reward, const nlohmann::json& sample,
                              const std::string& completion, bool stopped = true,
                              bool thinking_open = false, int64_t tokens = 0) {
  const RewardInput input{.sample = &sample,
                          .prompt = "question",
                          .completion = completion,
                          .tokens = tokens,
                          .stopped = stopped,
                          .thinking_open = thinking_open};
  return reward.score({input}).at(0);
}

inline RewardResult score_one(const RewardConfig& config, const nlohmann::json& sample,
                              const std::string& completion, bool stopped = true,
                              bool thinking_open = false, int64_t tokens = 0) {
  return score_one(*make_reward(config), sample, completion, stopped, thinking_open, tokens);
}

/// A batch with one sample for all.
inline std::vector<RewardResult> score_all(Reward& reward, const nlohmann::json& sample,
                                           const std::vector<std::string>& completions) {
  std::vector<RewardInput> inputs;
  for (const std::string& completion : completions)
    inputs.push_back({.sample = &sample, .prompt = "question", .completion = completion});
  return reward.score(inputs);
}

}  // namespace tessera::rl
