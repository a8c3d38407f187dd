// The parts of a completion: the thinking, the answer behind it, and what in the answer is marked
// as final. All views point into the text given.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "rl/rewards/reward.h"

namespace tessera::rl {

struct CompletionParts {
  std::string_view thinking;  // between <think> and the last </think>; empty without one
  std::string_view
      answer;  // behind the last </think>; empty while thinking goes on; all, where there is none
  bool has_thinking = false;  // <think> was written, here or by the template
};
[[nodiscard]] CompletionParts split_thinking(std::string_view completion, bool thinking_open);

/// Without surrounding white space.
[[nodiscard]] std::string_view trim(std::string_view text);

/// In lower case (ASCII).
[[nodiscard]] std::string lower(std::string_view text);

/// The inside of the last \boxed{...} or \fbox{...} whose braces close.
[[nodiscard]] std::optional<std::string_view> last_boxed(std::string_view text);

/// The inside of the last <answer>...</answer>.
[[nodiscard]] std::optional<std::string_view> last_tagged(std::string_view text);

/// The last of both kinds of mark: \boxed{} first, then <answer>, with a \boxed{} inside of it
/// taken out.
[[nodiscard]] std::optional<std::string_view> marked_answer(std::string_view text);

/// The last block fenced by ``` lines, without them; a block that is not closed reaches to the end.
[[nodiscard]] std::optional<std::string_view> last_fenced(std::string_view text);

/// Where the brace at `open` closes; npos where it does not. A brace behind a backslash is text.
[[nodiscard]] size_t closing_brace(std::string_view text, size_t open);

/// sample[field]. Throws Error naming the field where the sample has none.
[[nodiscard]] const nlohmann::json& sample_field(const RewardInput& input,
                                                 const std::string& field);

/// sample[field] as text: a string as it is, a number or boolean as JSON writes it. Throws Error
/// otherwise.
[[nodiscard]] std::string reference_text(const RewardInput& input, const std::string& field);

/// A reward that looks at one sample at a time; what `score_one` throws fails that sample.
[[nodiscard]] std::unique_ptr<Reward> make_sample_reward(
    std::function<double(const RewardInput&)> score_one);

}  // namespace tessera::rl
