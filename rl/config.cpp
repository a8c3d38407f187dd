#include "rl/config.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/text.h"

namespace tessera::rl {

namespace {

void require(bool good, const std::string& message) {
  if (!good) throw ConfigError(message);
}

void require_at_least(const char* key, double value, double least) {
  require(std::isfinite(value) && value >= least, detail::concat("rl.", key, " = ", value, " must be at least ", least));
}

void require_known(const char* key, const std::string& value, const std::vector<std::string>& known) {
  if (std::find(known.begin(), known.end(), value) != known.end()) return;
  const std::string near = nearest_name(value, known);
  throw ConfigError(detail::concat("rl.", key, " = ", value, " is not one of ", join(known), near.empty() ? "" : "; did you mean '" + near + "'?"));
}

}  // namespace

void RlConfig::validate() const {
  require_at_least("rollouts_per_prompt", static_cast<double>(rollouts_per_prompt), 1);
  require_at_least("max_new_tokens", static_cast<double>(max_new_tokens), 1);
  require(std::isfinite(temperature) && temperature > 0, detail::concat("rl.temperature = ", temperature, " must be more than 0: rollouts are sampled"));
  require(top_p > 0 && top_p <= 1, detail::concat("rl.top_p = ", top_p, " must be in (0, 1]"));
  require_at_least("generation_batch", static_cast<double>(generation_batch), 1);
  require_known("objective", objective, {"grpo", "r1_grpo", "dr_grpo", "dapo", "gspo", "cispo"});
  require_known("advantage", advantage, {"group", "batch", "leave_one_out"});
  require(advantage == "batch" || rollouts_per_prompt > 1,
          "rl.rollouts_per_prompt = 1 leaves nothing to compare a reward with; set it to 2 or more, or rl.advantage to batch");
  require_at_least("clip_low", clip_low, 0);
  require_at_least("clip_high", clip_high, 0);
  require_at_least("kl_coefficient", kl_coefficient, 0);
  require_at_least("reference_refresh_every", static_cast<double>(reference_refresh_every), 0);
  require_at_least("updates_per_rollout", static_cast<double>(updates_per_rollout), 1);
  require_at_least("importance_cap", importance_cap, 0);
  require_at_least("max_resamples", static_cast<double>(max_resamples), 1);
  require(staleness == 0 || staleness == 1, detail::concat("rl.staleness = ", staleness, " must be 0 or 1"));
  require_at_least("samples_every", static_cast<double>(samples_every), 0);
  require(!rewards.empty(), "rl.rewards is missing: a list such as [{name: numeric, weight: 1.0}]");
  for (const auto& reward : rewards) reward.validate();
}

}  // namespace tessera::rl
