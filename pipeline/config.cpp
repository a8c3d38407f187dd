#include "pipeline/config.h"

#include <cmath>

#include "core/error.h"

namespace tessera::pipeline {

namespace {

template <typename... Parts>
void require(bool holds, const Parts&... parts) {
  if (!holds) throw ConfigError(detail::concat(parts...));
}

}  // namespace

void SelectionConfig::validate(const std::string& section) const {
  require(keep_per_prompt >= 1, section, ".keep_per_prompt = ", keep_per_prompt, " must be at least 1");
  require(std::isfinite(minimum_reward), section, ".minimum_reward must be a number, for instance 1.0");
  require(limit >= 0, section, ".limit = ", limit, " must be 0 (all) or more");
  double shares = 0;
  for (const auto& source : mix) {
    require(!source.path.empty(), section, ".mix needs a path in each entry: {path: general.jsonl, share: 0.25}");
    require(source.share > 0 && source.share < 1, section, ".mix: share = ", source.share, " must be between 0 and 1; it is a share of all samples");
    shares += source.share;
  }
  require(shares < 1, section, ".mix: the shares add up to ", shares, ", which leaves no room for completions; they must stay below 1");
}

void DistillConfig::validate() const {
  require(!teacher.empty(), "distill.teacher is missing: a stage's name, or a model folder");
  require(samples_per_prompt >= 1, "distill.samples_per_prompt = ", samples_per_prompt, " must be at least 1");
  require(max_new_tokens >= 1, "distill.max_new_tokens = ", max_new_tokens, " must be at least 1");
  require(generation_batch >= 1, "distill.generation_batch = ", generation_batch, " must be at least 1");
  require(std::isfinite(temperature) && temperature >= 0, "distill.temperature = ", temperature, " must be 0 (greedy) or more");
  require(top_p > 0 && top_p <= 1, "distill.top_p = ", top_p, " must be in (0, 1]");
  require(temperature > 0 || samples_per_prompt == 1, "distill.samples_per_prompt = ", samples_per_prompt,
          " would be the same completion each time: set distill.temperature above 0");
  for (const auto& reward : rewards) reward.validate();
  selection.validate("distill");
}

rl::RlConfig DistillConfig::rollouts() const {
  rl::RlConfig rl;
  rl.rollouts_per_prompt = samples_per_prompt;
  rl.max_new_tokens = max_new_tokens;
  rl.temperature = temperature;
  rl.top_p = top_p;
  rl.generation_batch = generation_batch;
  rl.rewards = rewards;
  return rl;
}

void ReportConfig::validate() const {
  require(!data.empty(), "report.data is missing: a list of {path} with problems held out");
  require(!rewards.empty(), "report.rewards is missing: a list such as [{name: exact}]");
  require(max_new_tokens >= 1, "report.max_new_tokens = ", max_new_tokens, " must be at least 1");
  require(generation_batch >= 1, "report.generation_batch = ", generation_batch, " must be at least 1");
  for (const auto& reward : rewards) reward.validate();
}

}  // namespace tessera::pipeline
