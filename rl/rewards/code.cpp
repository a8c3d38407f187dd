// The reward of programs: takes the answer's last code block and has it run in the sandbox against
// the sample's tests.
#include <cmath>
#include <random>

#include "core/error.h"
#include "rl/rewards/answer.h"
#include "rl/rewards/helper.h"
#include "rl/rewards/kinds.h"
#include "rl/rewards/line_program.h"
#include "rl/rewards/sandbox.h"
#include "rl/rewards/sandbox_server.h"

namespace tessera::rl {
namespace {

constexpr const char* kTitle = "rl.rewards: code";
// Per run, for making and taking down a sandbox; and once, for a busy machine.
constexpr double kSlackSeconds = 1, kBatchSlackSeconds = 30;

/// The interpreter's command with the program's file in the place of "-" or "{file}", else behind
/// it.
std::vector<std::string> command_for_file(const RewardConfig& config) {
  std::vector<std::string> command = config.command;
  if (command.empty()) command = {"python3", "-I", "-"};
  bool placed = false;
  for (std::string& word : command) {
    if (word == "-") word = "{file}";
    for (size_t at = word.find("{file}"); at != std::string::npos; at = word.find("{file}")) {
      word.replace(at, 6, kSandboxFile);
      placed = true;
    }
  }
  if (!placed) command.emplace_back(kSandboxFile);
  return command;
}

/// An unguessable line: a program that ends early, whatever its exit status, has not passed the
/// tests behind it.
std::string new_marker() {
  std::random_device device;
  char text[48];
  std::snprintf(text, sizeof text, "tests-done-%08x%08x%08x", device(), device(), device());
  return text;
}

class CodeReward final : public Reward {
 public:
  explicit CodeReward(const RewardConfig& config)
      : config_(config),
        command_(command_for_file(config)),
        server_(helper_command({"sandbox-run"}), kTitle) {
    auto probe = base_request();
    probe["code"] = "";
    probe["runs"] = nlohmann::json::array();
    const auto answers = server_.exchange({probe}, config.deadline_seconds + kBatchSlackSeconds);
    const RewardResult result = to_results(answers).front();
    if (result.failed)
      throw ConfigError(detail::concat(
          kTitle, ": foreign programs are run in a sandbox only, and it cannot be made here: ",
          result.error,
          ". Needed are Linux 5.14 or newer and unprivileged user namespaces: sysctl "
          "user.max_user_namespaces above 0 and, "
          "where they exist, kernel.unprivileged_userns_clone=1 and "
          "kernel.apparmor_restrict_unprivileged_userns=0; in "
          "Docker --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
          "--security-opt systempaths=unconfined"));
  }

  std::vector<RewardResult> score(const std::vector<RewardInput>& inputs) override {
    std::vector<RewardResult> results(inputs.size());
    std::vector<nlohmann::json> requests;
    std::vector<size_t> owners;
    double run_count = 0;
    for (size_t i = 0; i < inputs.size(); ++i) {
      try {
        auto tests = requests_of(inputs[i]);
        for (auto& request : tests) {
          run_count += static_cast<double>(request["runs"].size());
          requests.push_back(std::move(request));
          owners.push_back(i);
        }
        results[i].value = tests.empty() ? 0 : 1;
      } catch (const std::exception& error) {
        results[i] = {.value = 0, .failed = true, .error = error.what()};
      }
    }
    const double deadline =
        kBatchSlackSeconds + run_count * (config_.deadline_seconds + kSlackSeconds);
    const auto scored = to_results(server_.exchange(std::move(requests), deadline));
    for (size_t i = 0; i < scored.size(); ++i) merge(results[owners[i]], scored[i]);
    return results;
  }

 private:
  [[nodiscard]] nlohmann::json base_request() const {
    return {{"command", command_},
            {"marker", ""},
            {"deadline_seconds", config_.deadline_seconds},
            {"memory_mb", config_.memory_mb},
            {"processes", config_.processes},
            {"file_mb", config_.file_mb}};
  }

  /// None for an answer without a program; one for the sample's "tests", one for its "test_code".
  [[nodiscard]] std::vector<nlohmann::json> requests_of(const RewardInput& input) const {
    const nlohmann::json& sample = *input.sample;
    const bool has_tests = sample.contains("tests") && !sample["tests"].empty(),
               has_code = sample.contains("test_code");
    if (!has_tests && !has_code) throw Error("the sample has neither 'tests' nor 'test_code'");
    const std::string_view answer = split_thinking(input.completion, input.thinking_open).answer;
    const std::string code(last_fenced(answer).value_or(answer));
    std::vector<nlohmann::json> requests;
    if (has_tests) {
      auto request = base_request();
      request["code"] = code;
      for (const auto& test : sample["tests"]) {
        if (!test.is_object() || !test.contains("output") || !test["output"].is_string() ||
            !test.value("input", nlohmann::json("")).is_string())
          throw Error(
              "the sample's 'tests' must be a list of {\"input\", \"output\"}, both strings");
        request["runs"].push_back({{"input", test.value("input", "")}, {"output", test["output"]}});
      }
      requests.push_back(std::move(request));
    }
    if (has_code) {
      auto request = base_request();
      std::string program = code + "\n\n" + reference_text(input, "test_code") + "\n";
      if (is_python()) {
        const std::string marker = new_marker();
        program += "\nprint(\"\\n" + marker + "\")\n";
        request["marker"] = marker;
      }
      request["code"] = program;
      request["runs"].push_back({{"input", ""}});
      requests.push_back(std::move(request));
    }
    if (trim(code).empty()) return {};
    return requests;
  }

  [[nodiscard]] bool is_python() const {
    const std::string& program = command_.front();
    const size_t slash = program.rfind('/');
    return program.compare(slash == std::string::npos ? 0 : slash + 1, 6, "python") == 0;
  }

  static void merge(RewardResult& into, const RewardResult& part) {
    if (part.failed && !into.failed) into = part;
    if (!into.failed && part.value < into.value) into.value = part.value;
  }

  RewardConfig config_;
  std::vector<std::string> command_;
  LineProgram server_;
};

}  // namespace

std::unique_ptr<Reward> make_code_reward(const RewardConfig& config) {
  return std::make_unique<CodeReward>(config);
}

}  // namespace tessera::rl
