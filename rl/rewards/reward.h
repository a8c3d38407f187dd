// Rewards: what a completion is worth. The recipe's rl.rewards lists kinds with weights; the RL
// loop gives a batch of completions with their data lines to a RewardSet and gets a weighted sum
// for each back. `tessera eval` may use the same kinds. docs/guides/rewards.md says how each kind
// reads an answer.
//
// Nothing here needs a model. Rewards that run foreign code (program, plugin, code) do so in child
// processes.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::rl {

/// One entry of the recipe's rl.rewards.
struct RewardConfig {
  std::string name{};  // numeric | exact | choice | set | json | regex | format | language | length
                       // | code | program | plugin
  double weight = 1.0;
  double tolerance = 1e-6;       // numeric, set, json: relative
  std::string field = "answer";  // of the sample that holds what is right
  std::string
      pattern{};  // regex: PCRE2, empty: the sample's field; format: think | think-answer | boxed
  std::string language{};  // language: ISO 639-1 code, e.g. en, de, fr, es, zh, ru
  int64_t target_length = 0, max_length = 0;  // length: tokens
  std::vector<std::string> command{};         // program; code: interpreter, empty: python3 -I -
  std::string library{};                      // plugin
  double deadline_seconds = 10;               // of a batch (program, plugin), of a run (code)
  int64_t memory_mb = 512, processes = 16,
          file_mb = 16;  // code: of a process, of a run, of a run's files

  /// Throws ConfigError that names rl.rewards, the kind, and what to set.
  void validate() const;
};

/// One completion to be scored. What it points to must outlive the call.
struct RewardInput {
  const nlohmann::json* sample =
      nullptr;  // the data line: prompt or messages, answer, any other fields
  std::string_view prompt{}, completion{};
  int64_t tokens = 0;          // of the completion
  bool stopped = true;         // by itself, not by the length limit
  bool thinking_open = false;  // the template has already written <think>
};

struct RewardResult {
  double value = 0;
  bool failed = false;  // the value is 0 and means nothing
  std::string error{};
};

/// One kind. Not thread-safe; different rewards may be used from different threads.
class Reward {
 public:
  virtual ~Reward() = default;
  /// One result an input, in order. May throw; a RewardSet contains that.
  virtual std::vector<RewardResult> score(const std::vector<RewardInput>& inputs) = 0;
};

/// Throws ConfigError: a wrong config, a program that does not start, a kernel that does not allow
/// the sandbox.
[[nodiscard]] std::unique_ptr<Reward> make_reward(const RewardConfig& config);

struct TotalReward {
  double total = 0;           // sum of weight times value over the parts that did not fail
  bool failed = false;        // some part failed
  std::vector<double> parts;  // without weights, in the order of the configs
};

/// All rewards of a recipe. A reward that throws, times out, gives a number that is not finite or
/// the wrong number of results fails for the samples concerned, is counted, and ends nothing.
class RewardSet {
 public:
  struct Failures {
    int64_t count = 0;  // samples
    std::string last_error;
  };

  /// Throws ConfigError.
  explicit RewardSet(std::vector<RewardConfig> configs);
  /// For rewards that are not in make_reward's list; one a config.
  RewardSet(std::vector<RewardConfig> configs, std::vector<std::unique_ptr<Reward>> rewards);

  /// One total an input, in order. Throws ConfigError only: a program that could not be started
  /// three times in a row will not start at the next step either.
  [[nodiscard]] std::vector<TotalReward> score(const std::vector<RewardInput>& inputs);

  [[nodiscard]] const std::vector<std::string>& names() const { return names_; }
  /// Since the beginning, one a config.
  [[nodiscard]] const std::vector<Failures>& failures() const { return failures_; }

 private:
  std::vector<RewardConfig> configs_;
  std::vector<std::unique_ptr<Reward>> rewards_;
  std::vector<std::string> names_;
  std::vector<Failures> failures_;
};

}  // namespace tessera::rl
