// The kinds of rewards, one function each; make_reward in reward.cpp chooses. All throw ConfigError
// as it says there.
#pragma once

#include <memory>

#include "rl/rewards/reward.h"

namespace tessera::rl {

/// 1 where the answer's number is the sample's (number.h): \boxed{}, else <answer>, else, of a
/// completion that stopped by itself, the last number.
[[nodiscard]] std::unique_ptr<Reward> make_numeric_reward(const RewardConfig& config);
/// 1 where data::answer_is_correct says so of the answer.
[[nodiscard]] std::unique_ptr<Reward> make_exact_reward(const RewardConfig& config);
/// 1 where the answer names one letter of A..J, the sample's.
[[nodiscard]] std::unique_ptr<Reward> make_choice_reward(const RewardConfig& config);
/// 1 where the answer lists the sample's elements, in any order; duplicates count once.
[[nodiscard]] std::unique_ptr<Reward> make_set_reward(const RewardConfig& config);
/// 1 where the answer's JSON has the structure of the sample's.
[[nodiscard]] std::unique_ptr<Reward> make_json_reward(const RewardConfig& config);
/// 1 where the pattern matches somewhere in the answer. A pattern that backtracks without end fails
/// the sample.
[[nodiscard]] std::unique_ptr<Reward> make_regex_reward(const RewardConfig& config);
/// 1 where thinking and answer have the shape that config.pattern names.
[[nodiscard]] std::unique_ptr<Reward> make_format_reward(const RewardConfig& config);
/// Share 0..1 of the thinking's words in config.language (language.h).
[[nodiscard]] std::unique_ptr<Reward> make_language_reward(const RewardConfig& config);
/// 0 up to target_length tokens, falling to -1 at max_length; -1 for a completion that did not stop
/// by itself (DAPO, arXiv 2503.14476, eq. 13).
[[nodiscard]] std::unique_ptr<Reward> make_length_reward(const RewardConfig& config);
/// 1 where the answer's program passes all of the sample's tests in the sandbox (sandbox.h).
[[nodiscard]] std::unique_ptr<Reward> make_code_reward(const RewardConfig& config);
/// What an external program says, in JSON lines (line_program.h).
[[nodiscard]] std::unique_ptr<Reward> make_program_reward(const RewardConfig& config);
/// What a shared library says (plugin.h), loaded by a child process.
[[nodiscard]] std::unique_ptr<Reward> make_plugin_reward(const RewardConfig& config);

}  // namespace tessera::rl
