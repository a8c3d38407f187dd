// Which part of a rendered chat the assistant says.
#include <algorithm>

#include "core/error.h"
#include "data/chat_template.h"
#include "data/unicode.h"

namespace tessera::data {

namespace {

size_t common_prefix(std::string_view a, std::string_view b) {
  return static_cast<size_t>(
      std::mismatch(a.begin(),
                    a.begin() + static_cast<std::ptrdiff_t>(std::min(a.size(), b.size())),
                    b.begin())
          .first -
      a.begin());
}

size_t common_suffix(std::string_view a, std::string_view b) {
  const size_t limit = std::min(a.size(), b.size());
  size_t size = 0;
  while (size < limit && a[a.size() - 1 - size] == b[b.size() - 1 - size]) ++size;
  return size;
}

// The strings in a value, replaced.
void replace_strings(Json& value, const std::string& text) {
  if (value.is_string()) value = text;
  if (value.is_structured())
    for (Json& item : value) replace_strings(item, text);
}

// The message with other words: content, reasoning, and the names and arguments of tool calls.
Json reworded(Json message, const std::string& text) {
  for (const char* key : {"content", "reasoning_content", "thinking", "reasoning"}) {
    const auto found = message.find(key);
    if (found == message.end() || found->is_null()) continue;
    if (found->is_string()) *found = text;
    if (found->is_array())
      for (Json& part : *found)
        if (part.is_object() && part.contains("text")) part["text"] = text;
  }
  const auto calls = message.find("tool_calls");
  if (calls == message.end() || !calls->is_array()) return message;
  for (Json& call : *calls) {
    Json& function = call.is_object() && call.contains("function") ? call["function"] : call;
    if (!function.is_object()) continue;
    for (const char* key : {"name", "arguments"})
      if (function.contains(key)) replace_strings(function[key], text);
  }
  return message;
}

/// Finds answers by what changes in the text when a message does.
class Finder {
 public:
  Finder(const ChatTemplate& chat_template, const Json& messages, const Json& extra,
         const std::string& text)
      : template_(chat_template), messages_(messages), extra_(extra), text_(text) {}

  /// `alone`: the chat up to this message; `before`: up to the generation prompt; `floor`: where
  /// the turn before ends.
  RenderedChat::Answer find(size_t i, const std::string& before, const std::string& alone,
                            size_t floor, bool& rewritten) const {
    const TextRange words = changed(messages_, i, text_);
    const Json prefix = first(i + 1);
    const TextRange words_alone = changed(prefix, i, alone);
    const std::string behind = alone.substr(words_alone.end);
    if (words.begin > words.end || words.begin < floor)
      doubt(i, words, "does not show what the message says");
    // Phi-3 writes one more token behind a chat's last turn: what both have in common ends the
    // turn.
    const size_t end = words.end + common_prefix(behind, std::string_view(text_).substr(words.end));
    if (end == words.end) doubt(i, words, "ends the turn differently when more turns follow");
    const size_t begin = opening(i, before, text_, floor, words.begin);
    if (begin == std::string::npos)
      doubt(i, words, "opens the turn differently than it asks for an answer");
    const size_t begin_alone = opening(i, before, alone, 0, words_alone.begin);
    rewritten = begin_alone == std::string::npos ||
                alone.substr(begin_alone, words_alone.end - begin_alone) !=
                    text_.substr(begin, words.end - begin);
    return {i, begin, end};
  }

  [[noreturn]] void doubt(size_t i, TextRange range, const char* what) const {
    const size_t begin = std::min(range.begin, text_.size()),
                 end = std::clamp(range.end, begin, text_.size());
    throw UnprovenMask(tessera::detail::concat(
        "message ", i + 1, " (assistant): the chat template ", what,
        ", so it cannot be told which tokens to train; mend the template, end the chat with this "
        "turn, or use {\"prompt\", "
        "\"completion\"}. The text, with the doubtful part in [[..]]: ",
        excerpt(text_.substr(0, begin), false), "[[",
        excerpt(text_.substr(begin, end - begin), true), "]]", excerpt(text_.substr(end), true)));
  }

 private:
  static constexpr size_t kShown = 200;

  // The end or the beginning of a long text.
  static std::string excerpt(const std::string& text, bool from_begin) {
    if (text.size() <= kShown) return text;
    size_t cut = from_begin ? kShown : text.size() - kShown;
    while (cut < text.size() && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) ++cut;
    return from_begin ? text.substr(0, cut) + "..." : "..." + text.substr(cut);
  }

  Json first(size_t count) const {
    Json out = Json::array();
    for (size_t i = 0; i < count; ++i) out.push_back(messages_[i]);
    return out;
  }

  // The part of `text`, which `messages` make, that depends on the words of message i. Two other
  // wordings, whose first and last characters differ: the right one cannot share those with both.
  TextRange changed(Json messages, size_t i, const std::string& text) const {
    const Json message = messages[i];
    TextRange range{text.size(), 0};
    size_t suffix = text.size();
    for (const char* wording : {"Qx7k0W", "Zy3m1V"}) {
      messages[i] = reworded(message, wording);
      const std::string other = template_.render(messages, false, extra_);
      range.begin = std::min(range.begin, common_prefix(text, other));
      suffix = std::min(suffix, common_suffix(text, other));
    }
    range.end = text.size() - suffix;
    return range;
  }

  // Where the answer begins: behind the generation prompt, or behind the first part of it that the
  // template writes in a turn that is over (R1 asks with <think>, which it does not write there).
  size_t opening(size_t i, const std::string& before, std::string_view text, size_t floor,
                 size_t words) const {
    const std::string history = i == 0 ? "" : template_.render(first(i), false, extra_);
    const std::string prompt = before.substr(common_prefix(history, before));
    if (prompt.empty()) return std::string::npos;
    const std::string_view turn = text.substr(floor, words - floor);
    if (const size_t at = turn.rfind(prompt); at != std::string_view::npos)
      return floor + at + prompt.size();
    for (size_t size = prompt.size() - 1; size > 0; --size)
      if (turn.ends_with(std::string_view(prompt).substr(0, size))) return words;
    return std::string::npos;
  }

  const ChatTemplate& template_;
  const Json& messages_;
  const Json& extra_;
  const std::string& text_;
};

}  // namespace

RenderedChat ChatTemplate::render_with_answers(const Json& messages, const Json& extra) const {
  RenderedChat chat;
  chat.text = render(messages, false, extra);
  const Finder finder(*this, messages, extra, chat.text);
  const auto render_prefix = [&](const Json& some, bool prompt, size_t i) {
    try {
      return render(some, prompt, extra);
    } catch (const ConfigError& error) {
      throw UnprovenMask(tessera::detail::concat("message ", i + 1,
                                                 " (assistant): the chat template does not render "
                                                 "the chat up to this turn, so it cannot be "
                                                 "told which tokens to train: ",
                                                 error.what()));
    }
  };
  Json prefix = Json::array();
  size_t floor = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].value("role", "") != "assistant") {
      prefix.push_back(messages[i]);
      continue;
    }
    const std::string before = render_prefix(prefix, true, i);
    prefix.push_back(messages[i]);
    const std::string alone =
        i + 1 == messages.size() ? chat.text : render_prefix(prefix, false, i);
    if (chat.text.starts_with(alone) && alone.starts_with(before) && before.size() >= floor) {
      chat.answers.push_back({i, before.size(), alone.size()});
    } else {
      bool rewritten = false;
      chat.answers.push_back(finder.find(i, before, alone, floor, rewritten));
      chat.rewritten += rewritten;
    }
    floor = chat.answers.back().end;
  }
  return chat;
}

namespace {
// A noncharacter: no text holds it, and no normal form changes it.
constexpr std::string_view kPlainMark = "\uFDD0";

std::string marked(std::string text, const std::vector<std::string>& tokens) {
  if (text.find(kPlainMark) != std::string::npos)
    throw ConfigError("a text holds the noncharacter U+FDD0; take it out");
  for (const std::string& token : tokens) {
    if (token.empty()) continue;
    const size_t first = decode_utf8(token.data()).length;
    for (size_t at = text.find(token); at != std::string::npos;
         at = text.find(token, at + kPlainMark.size() + token.size()))
      text.insert(at + first, kPlainMark);
  }
  return text;
}
}  // namespace

Json mark_plain(const Json& value, const std::vector<std::string>& tokens) {
  if (value.is_string()) return marked(value.get<std::string>(), tokens);
  Json out = value;
  if (value.is_array())
    for (Json& item : out) item = mark_plain(item, tokens);
  if (value.is_object())
    for (const auto& [key, item] : out.items())
      if (key != "role") item = mark_plain(item, tokens);
  return out;
}

void unmark_plain(RenderedChat& chat) {
  std::string out;
  std::vector<size_t> removed;  // where marks were, in the text with marks
  size_t from = 0;
  for (size_t at = chat.text.find(kPlainMark); at != std::string::npos;
       at = chat.text.find(kPlainMark, from)) {
    out.append(chat.text, from, at - from);
    chat.plain.push_back(out.size());
    removed.push_back(at);
    from = at + kPlainMark.size();
  }
  out.append(chat.text, from);
  const auto move = [&](size_t& offset) {
    const auto before = std::lower_bound(removed.begin(), removed.end(), offset) - removed.begin();
    offset -= static_cast<size_t>(before) * kPlainMark.size();
  };
  for (auto& answer : chat.answers) {
    move(answer.begin);
    move(answer.end);
  }
  chat.text = std::move(out);
}

}  // namespace tessera::data
