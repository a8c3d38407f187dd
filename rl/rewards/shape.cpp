// Rewards for the shape of a completion: format, length, language.
#include <algorithm>
#include <array>

#include "core/error.h"
#include "rl/rewards/answer.h"
#include "rl/rewards/kinds.h"
#include "rl/rewards/language.h"

namespace tessera::rl {
namespace {

size_t count(std::string_view text, std::string_view word) {
  size_t found = 0;
  for (size_t at = text.find(word); at != std::string_view::npos;
       at = text.find(word, at + word.size()))
    ++found;
  return found;
}

/// Thinking exactly once and from the beginning, not empty, then an answer that is not empty.
bool thinks_then_answers(const RewardInput& input, std::string_view& answer) {
  const std::string_view text = trim(input.completion);
  const size_t openings = count(text, "<think>");
  if (openings != (input.thinking_open ? 0u : 1u) || count(text, "</think>") != 1) return false;
  if (!input.thinking_open && !text.starts_with("<think>")) return false;
  const CompletionParts parts = split_thinking(text, input.thinking_open);
  answer = trim(parts.answer);
  return !trim(parts.thinking).empty() && !answer.empty();
}

bool is_tagged(std::string_view answer) {
  return answer.starts_with("<answer>") && answer.ends_with("</answer>") &&
         count(answer, "<answer>") == 1 && count(answer, "</answer>") == 1 &&
         !trim(*last_tagged(answer)).empty();
}

bool is_boxed(std::string_view answer) {
  const auto boxed = last_boxed(answer);
  return boxed && !trim(*boxed).empty();
}

}  // namespace

std::unique_ptr<Reward> make_format_reward(const RewardConfig& config) {
  const std::string pattern = config.pattern.empty() ? "think" : config.pattern;
  return make_sample_reward([pattern](const RewardInput& input) {
    std::string_view answer;
    if (pattern == "boxed")
      return is_boxed(split_thinking(input.completion, input.thinking_open).answer) ? 1.0 : 0.0;
    if (!thinks_then_answers(input, answer)) return 0.0;
    return pattern == "think" || is_tagged(answer) ? 1.0 : 0.0;
  });
}

std::unique_ptr<Reward> make_length_reward(const RewardConfig& config) {
  return make_sample_reward([config](const RewardInput& input) {
    if (!input.stopped) return -1.0;
    const auto over = static_cast<double>(input.tokens - config.target_length);
    const auto room = static_cast<double>(config.max_length - config.target_length);
    return over <= 0 ? 0.0 : -std::min(1.0, over / room);
  });
}

std::unique_ptr<Reward> make_language_reward(const RewardConfig& config) {
  return make_sample_reward([config](const RewardInput& input) {
    const CompletionParts parts = split_thinking(input.completion, input.thinking_open);
    return language_share(parts.has_thinking ? parts.thinking : parts.answer, config.language);
  });
}

}  // namespace tessera::rl
