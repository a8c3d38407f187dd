// Rewards by foreign code in a child process: a program, or a plug-in behind the host.
#include <filesystem>

#include "core/error.h"
#include "rl/rewards/helper.h"
#include "rl/rewards/kinds.h"
#include "rl/rewards/line_program.h"

namespace tessera::rl {
namespace {

class ExternalReward final : public Reward {
 public:
  ExternalReward(std::vector<std::string> command, const std::string& title,
                 double deadline_seconds)
      : program_(std::move(command), title), deadline_seconds_(deadline_seconds) {}

  std::vector<RewardResult> score(const std::vector<RewardInput>& inputs) override {
    std::vector<nlohmann::json> requests;
    for (const RewardInput& input : inputs) requests.push_back(to_request(input));
    return to_results(program_.exchange(std::move(requests), deadline_seconds_));
  }

 private:
  LineProgram program_;
  double deadline_seconds_;
};

}  // namespace

std::unique_ptr<Reward> make_program_reward(const RewardConfig& config) {
  return std::make_unique<ExternalReward>(config.command, "rl.rewards: program",
                                          config.deadline_seconds);
}

std::unique_ptr<Reward> make_plugin_reward(const RewardConfig& config) {
  if (!std::filesystem::exists(config.library))
    throw ConfigError(
        detail::concat("rl.rewards: plugin: there is no library '", config.library, "'"));
  // With a slash dlopen does not search the system's folders.
  const std::string path = std::filesystem::absolute(config.library).string();
  return std::make_unique<ExternalReward>(helper_command({"reward-host", path}),
                                          "rl.rewards: plugin", config.deadline_seconds);
}

}  // namespace tessera::rl
