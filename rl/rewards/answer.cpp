#include "rl/rewards/answer.h"

#include <algorithm>
#include <cctype>

#include "core/error.h"

namespace tessera::rl {
namespace {

constexpr std::string_view kThink = "<think>", kEndThink = "</think>";

class SampleReward final : public Reward {
 public:
  explicit SampleReward(std::function<double(const RewardInput&)> score_one)
      : score_one_(std::move(score_one)) {}

  std::vector<RewardResult> score(const std::vector<RewardInput>& inputs) override {
    std::vector<RewardResult> results(inputs.size());
    for (size_t i = 0; i < inputs.size(); ++i) {
      try {
        results[i].value = score_one_(inputs[i]);
      } catch (const std::exception& error) {
        results[i] = {.value = 0, .failed = true, .error = error.what()};
      }
    }
    return results;
  }

 private:
  std::function<double(const RewardInput&)> score_one_;
};

}  // namespace

CompletionParts split_thinking(std::string_view completion, bool thinking_open) {
  const size_t open = completion.find(kThink), close = completion.rfind(kEndThink);
  const bool has_thinking = thinking_open || open != std::string_view::npos;
  const size_t begin = !thinking_open && open != std::string_view::npos ? open + kThink.size() : 0;
  if (close == std::string_view::npos) {
    if (!has_thinking) return {.thinking = {}, .answer = completion, .has_thinking = false};
    return {.thinking = completion.substr(begin), .answer = {}, .has_thinking = true};
  }
  // Without an opening mark all in front of the closing one is taken for thinking.
  const size_t from = begin <= close ? begin : 0;
  return {.thinking = completion.substr(from, close - from),
          .answer = completion.substr(close + kEndThink.size()),
          .has_thinking = true};
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n\f\v";
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) + 1 - begin);
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  return out;
}

size_t closing_brace(std::string_view text, size_t open) {
  int depth = 0;
  for (size_t i = open; i < text.size(); ++i) {
    if (text[i] == '\\') {
      ++i;
    } else if (text[i] == '{') {
      ++depth;
    } else if (text[i] == '}' && --depth == 0) {
      return i;
    }
  }
  return std::string_view::npos;
}

std::optional<std::string_view> last_boxed(std::string_view text) {
  // Backwards over the openings, so that one left open hides none in front of it.
  for (size_t at = text.rfind('{'); at != std::string_view::npos && at > 0;
       at = text.rfind('{', at - 1)) {
    const std::string_view before = trim(text.substr(0, at));
    if (!before.ends_with("\\boxed") && !before.ends_with("\\fbox")) continue;
    const size_t close = closing_brace(text, at);
    if (close != std::string_view::npos) return text.substr(at + 1, close - at - 1);
  }
  return std::nullopt;
}

std::optional<std::string_view> last_tagged(std::string_view text) {
  constexpr std::string_view kOpen = "<answer>", kClose = "</answer>";
  const size_t close = text.rfind(kClose);
  if (close == std::string_view::npos) return std::nullopt;
  const size_t open = text.substr(0, close).rfind(kOpen);
  if (open == std::string_view::npos) return std::nullopt;
  return text.substr(open + kOpen.size(), close - open - kOpen.size());
}

std::optional<std::string_view> marked_answer(std::string_view text) {
  if (const auto boxed = last_boxed(text)) return boxed;
  return last_tagged(text);
}

std::optional<std::string_view> last_fenced(std::string_view text) {
  std::optional<std::string_view> found;
  size_t inside = std::string_view::npos;  // where the open block begins
  for (size_t line = 0; line < text.size();) {
    const size_t end = std::min(text.find('\n', line), text.size()),
                 next = std::min(end + 1, text.size());
    const std::string_view content = trim(text.substr(line, end - line));
    if (content.starts_with("```")) {
      if (inside == std::string_view::npos) {
        inside = next;
      } else if (content == "```") {
        found = text.substr(inside, line - inside);
        inside = std::string_view::npos;
      }
    }
    line = next > line ? next : text.size();
  }
  if (inside != std::string_view::npos) found = text.substr(inside);
  return found;
}

const nlohmann::json& sample_field(const RewardInput& input, const std::string& field) {
  if (input.sample == nullptr || !input.sample->is_object() || !input.sample->contains(field))
    throw Error(detail::concat("the sample has no field '", field, "'"));
  return (*input.sample)[field];
}

std::string reference_text(const RewardInput& input, const std::string& field) {
  const nlohmann::json& value = sample_field(input, field);
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number() || value.is_boolean()) return value.dump();
  throw Error(detail::concat("the sample's field '", field, "' must be a string or a number"));
}

std::unique_ptr<Reward> make_sample_reward(std::function<double(const RewardInput&)> score_one) {
  return std::make_unique<SampleReward>(std::move(score_one));
}

}  // namespace tessera::rl
