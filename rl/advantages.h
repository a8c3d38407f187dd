// How much better a completion is than what it is compared with.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tessera::rl {

struct AdvantageConfig {
  std::string baseline = "group";  // group | batch | leave_one_out
  bool scale = true;
};

/// rewards: of all rollouts of a phase, `group_size` in a row belong to one prompt; `usable`: false for those without a reward, which
/// count nowhere and get 0. group: (R - mean) / (deviation + 1e-4) over the group (GRPO, arXiv 2402.03300, section 4.1; unbiased
/// deviation); batch: mean of the group, deviation of all; leave_one_out: R less the mean of the others (RLOO).
[[nodiscard]] std::vector<double> advantages(const std::vector<double>& rewards, const std::vector<bool>& usable, int64_t group_size,
                                             const AdvantageConfig& config);

}  // namespace tessera::rl
