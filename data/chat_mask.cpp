#include "data/chat_mask.h"

#include <algorithm>

#include "core/error.h"
#include "data/unicode.h"

namespace tessera::data {

namespace {
using tessera::detail::concat;

// `end` without the white space before it.
size_t without_blanks(std::string_view text, size_t begin, size_t end) {
  while (end > begin) {
    size_t at = end - 1;
    while (at > begin && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
    if (char_classes()[decode_utf8(text.data() + at).value] != kSpace) break;
    end = at;
  }
  return end;
}

// Around byte `at`, with || there.
std::string shown(std::string_view text, size_t at) {
  constexpr size_t kShown = 60;
  size_t begin = at > kShown ? at - kShown : 0, end = std::min(text.size(), at + kShown);
  const auto inside = [&](size_t i) {
    return i < text.size() && (static_cast<unsigned char>(text[i]) & 0xC0) == 0x80;
  };
  while (inside(begin)) ++begin;
  while (inside(end)) ++end;
  return concat("\"", text.substr(begin, at - begin), "||", text.substr(at, end - at), "\"");
}

// One answer; returns what is wrong with it.
std::string mark_answer(const TokenizedChat& tokenized, const RenderedChat::Answer& answer,
                        const Tokenizer& tokenizer, std::vector<uint8_t>& mask) {
  const auto& [chat, tokens, ends] = tokenized;
  const auto begin = static_cast<int64_t>(answer.begin), end = static_cast<int64_t>(answer.end);
  auto first =
      static_cast<size_t>(std::upper_bound(ends.begin(), ends.end(), begin) - ends.begin());
  std::string wrong;
  if (begin > 0 && (first == 0 || ends[first - 1] != begin)) {
    wrong = concat("message ", answer.message + 1,
                   " (assistant) begins with text that the tokenizer joins with the template's "
                   "into one token; strip the "
                   "white space before it: ",
                   shown(chat.text, answer.begin));
    ++first;  // not trained
  }
  size_t last = first;  // behind the last special token of the turn
  for (size_t i = first; i < ends.size() && ends[i] <= end; ++i)
    if (tokenizer.is_special(tokens[i])) last = i + 1;
  const auto covered = last > first ? static_cast<size_t>(ends[last - 1]) : answer.begin;
  if (last == first || without_blanks(chat.text, covered, answer.end) != covered) {
    wrong = concat(
        "message ", answer.message + 1,
        " (assistant): the chat template writes no special token behind the turn, so its end would "
        "not be "
        "trained; end the assistant's turns with the end-of-turn token in chat_template.jinja: ",
        shown(chat.text, answer.end));
    for (last = first; last < ends.size() && ends[last] <= end;) ++last;
  }
  std::fill(mask.begin() + static_cast<std::ptrdiff_t>(first),
            mask.begin() + static_cast<std::ptrdiff_t>(last), 1);
  return wrong;
}
}  // namespace

void end_before_special(RenderedChat& chat, const std::vector<int32_t>& tokens,
                        const std::vector<int64_t>& ends, const Tokenizer& tokenizer) {
  for (auto& answer : chat.answers) {
    const auto end = static_cast<int64_t>(answer.end);
    const auto i =
        static_cast<size_t>(std::lower_bound(ends.begin(), ends.end(), end) - ends.begin());
    if (i == 0 || i == ends.size() || ends[i] == end || !tokenizer.is_special(tokens[i])) continue;
    answer.end = std::max(answer.begin, static_cast<size_t>(ends[i - 1]));
  }
}

std::vector<std::string> mark_answers(const TokenizedChat& tokenized, const Tokenizer& tokenizer,
                                      std::vector<uint8_t>& mask) {
  mask.assign(tokenized.tokens.size(), 0);
  std::vector<std::string> wrong;
  for (const auto& answer : tokenized.chat.answers)
    if (std::string what = mark_answer(tokenized, answer, tokenizer, mask); !what.empty())
      wrong.push_back(std::move(what));
  if (!mask.empty()) mask[0] = 0;  // nothing predicts the first token
  return wrong;
}

std::string check_mask(const TokenizedChat& tokenized, const Tokenizer& tokenizer,
                       const std::vector<uint8_t>& mask) {
  const auto& [chat, tokens, ends] = tokenized;
  if (mask.size() != tokens.size()) return "the mask has another length than the tokens";
  size_t next = 0;  // the answer that token i may belong to
  for (size_t i = 0; i < tokens.size(); ++i) {
    const size_t begin = i == 0 ? 0 : static_cast<size_t>(ends[i - 1]),
                 end = static_cast<size_t>(ends[i]);
    while (next < chat.answers.size() && chat.answers[next].end <= begin) ++next;
    bool expected = false;
    if (next < chat.answers.size() && i > 0) {
      const auto& answer = chat.answers[next];
      const size_t stop = without_blanks(chat.text, answer.begin, answer.end);
      expected = begin >= answer.begin && end <= stop;
      if (end == stop && !tokenizer.is_special(tokens[i]))
        return concat("message ", answer.message + 1,
                      ": its last token is not special: ", shown(chat.text, stop));
    }
    if (expected != (mask[i] != 0)) {
      return concat("token ", i,
                    expected ? " is not trained, though the assistant says it: "
                             : " is trained, though the assistant does not say it: ",
                    shown(chat.text, begin));
    }
  }
  return "";
}

}  // namespace tessera::data
