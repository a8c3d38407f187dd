#include <cmath>

#include "core/error.h"
#include "rl/rewards/reward.h"

namespace tessera::rl {
namespace {

std::vector<RewardResult> all_failed(size_t count, const std::string& error) {
  return std::vector<RewardResult>(count, RewardResult{.value = 0, .failed = true, .error = error});
}

/// The results of one reward, whatever it does.
std::vector<RewardResult> score_contained(Reward& reward, const std::vector<RewardInput>& inputs) {
  std::vector<RewardResult> results;
  try {
    results = reward.score(inputs);
  } catch (const ConfigError&) {
    throw;
  } catch (const std::exception& error) {
    return all_failed(inputs.size(), error.what());
  } catch (...) {
    return all_failed(inputs.size(), "threw something that is no std::exception");
  }
  if (results.size() != inputs.size())
    return all_failed(inputs.size(), detail::concat("gave ", results.size(), " values for ",
                                                    inputs.size(), " samples"));
  for (RewardResult& result : results) {
    if (!result.failed && !std::isfinite(result.value))
      result = {.value = 0, .failed = true, .error = "gave a value that is not finite"};
    if (result.failed) result.value = 0;
  }
  return results;
}

std::vector<std::unique_ptr<Reward>> make_rewards(const std::vector<RewardConfig>& configs) {
  std::vector<std::unique_ptr<Reward>> rewards;
  for (const RewardConfig& config : configs) rewards.push_back(make_reward(config));
  return rewards;
}

}  // namespace

RewardSet::RewardSet(std::vector<RewardConfig> configs)
    : RewardSet(configs, make_rewards(configs)) {}

RewardSet::RewardSet(std::vector<RewardConfig> configs,
                     std::vector<std::unique_ptr<Reward>> rewards)
    : configs_(std::move(configs)), rewards_(std::move(rewards)), failures_(configs_.size()) {
  TESSERA_CHECK(configs_.size() == rewards_.size(), "one reward a config");
  for (const RewardConfig& config : configs_) names_.push_back(config.name);
}

std::vector<TotalReward> RewardSet::score(const std::vector<RewardInput>& inputs) {
  std::vector<TotalReward> totals(inputs.size());
  if (inputs.empty()) return totals;
  for (size_t kind = 0; kind < rewards_.size(); ++kind) {
    const auto results = score_contained(*rewards_[kind], inputs);
    for (size_t i = 0; i < inputs.size(); ++i) {
      totals[i].parts.push_back(results[i].value);
      totals[i].total += configs_[kind].weight * results[i].value;
      if (!results[i].failed) continue;
      totals[i].failed = true;
      ++failures_[kind].count;
      failures_[kind].last_error = results[i].error;
    }
  }
  return totals;
}

}  // namespace tessera::rl
