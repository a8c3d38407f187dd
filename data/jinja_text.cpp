#include "data/jinja_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "data/unicode.h"

namespace tessera::data::jinja {

namespace {
std::string map_characters(std::string_view text,
                           const std::function<void(uint32_t, std::string&)>& change) {
  std::string out;
  out.reserve(text.size());
  for (const auto c : characters(text)) change(decode_utf8(c.data()).value, out);
  return out;
}

// Python's full case mapping of the characters whose capitals are several letters.
void append_upper(uint32_t c, std::string& out) {
  if (c == 0xDF) {
    out += "SS";
  } else if (c == 0x149) {
    out += "\u02BCN";
  } else if (c >= 0xFB00 && c <= 0xFB06) {
    static constexpr const char* kLigatures[] = {"FF", "FI", "FL", "FFI", "FFL", "ST", "ST"};
    out += kLigatures[c - 0xFB00];
  } else {
    append_utf8(static_cast<uint32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))), out);
  }
}

void append_lower(uint32_t c, std::string& out) {
  if (c == 0x130) {
    out += "i\u0307";
  } else {
    append_utf8(static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))), out);
  }
}

void append_title(uint32_t c, std::string& out) {
  if (c == 0xDF || (c >= 0xFB00 && c <= 0xFB06)) {
    std::string upper;
    append_upper(c, upper);
    out += upper[0];
    for (const char more : upper.substr(1)) out += static_cast<char>(more | 32);
  } else {
    append_utf8(static_cast<uint32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))), out);
  }
}

bool is_letter(uint32_t c) { return char_classes()[c] == kLetter; }
}  // namespace

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t i = 0; i < text.size();) {
    const size_t length = std::min<size_t>(decode_utf8(text.data() + i).length, text.size() - i);
    out.push_back(text.substr(i, length));
    i += length;
  }
  return out;
}

bool is_space(std::string_view character) {
  const uint32_t value = decode_utf8(character.data()).value;
  return char_classes()[value] == kSpace || (value >= 0x1C && value <= 0x1F);
}

std::string upper_case(std::string_view text) { return map_characters(text, append_upper); }
std::string lower_case(std::string_view text) { return map_characters(text, append_lower); }

std::string capitalize(std::string_view text) {
  bool first = true;
  return map_characters(text, [&](uint32_t c, std::string& out) {
    std::exchange(first, false) ? append_title(c, out) : append_lower(c, out);
  });
}

std::string title(std::string_view text) {
  bool in_word = false;
  return map_characters(text, [&](uint32_t c, std::string& out) {
    std::exchange(in_word, is_letter(c)) ? append_lower(c, out) : append_title(c, out);
  });
}

std::string title_words(std::string_view text) {
  bool begins = true;
  std::string out;
  for (const auto c : characters(text)) {
    const uint32_t value = decode_utf8(c.data()).value;
    begins ? append_upper(value, out) : append_lower(value, out);
    begins = is_space(c) || std::string_view("-({[<").find(c) != std::string_view::npos;
  }
  return out;
}

std::string strip(std::string_view text, const std::optional<std::string>& chars, bool left,
                  bool right) {
  const std::vector<std::string_view> wanted =
      chars ? characters(*chars) : std::vector<std::string_view>{};
  const auto matches = [&](std::string_view c) {
    return chars ? std::find(wanted.begin(), wanted.end(), c) != wanted.end() : is_space(c);
  };
  while (left && !text.empty()) {
    const std::string_view first = text.substr(0, decode_utf8(text.data()).length);
    if (!matches(first)) break;
    text.remove_prefix(first.size());
  }
  while (right && !text.empty()) {
    size_t at = text.size() - 1;
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
    if (!matches(text.substr(at))) break;
    text.remove_suffix(text.size() - at);
  }
  return std::string(text);
}

std::optional<std::string> replace_all(std::string_view text, const std::string& from,
                                       const std::string& to, int64_t count) {
  std::string out;
  while (count-- != 0) {
    const size_t at = text.find(from);
    if (at == std::string_view::npos) break;
    if (out.size() + to.size() + text.size() > kMaxText) return std::nullopt;
    out.append(text.substr(0, at)).append(to);
    text.remove_prefix(at + from.size());
  }
  return out.append(text);
}

namespace {
std::vector<std::string> split_words(std::string_view text, int64_t limit) {
  std::vector<std::string> out;
  std::string rest = strip(text, std::nullopt, true, false);
  std::string_view left = rest;
  while (!left.empty()) {
    if (limit-- == 0) {
      out.emplace_back(strip(left, std::nullopt, false, false));
      return out;
    }
    size_t end = 0;
    const auto length = [&](size_t at) { return decode_utf8(left.data() + at).length; };
    while (end < left.size() && !is_space(left.substr(end, length(end)))) end += length(end);
    out.emplace_back(left.substr(0, end));
    while (end < left.size() && is_space(left.substr(end, length(end)))) end += length(end);
    left.remove_prefix(end);
  }
  return out;
}
}  // namespace

std::vector<std::string> split_text(std::string_view text,
                                    const std::optional<std::string>& separator, int64_t limit,
                                    bool from_right) {
  if (!separator) return split_words(text, limit);
  std::vector<std::string> out;
  while (limit-- != 0) {
    const size_t at = from_right ? text.rfind(*separator) : text.find(*separator);
    if (at == std::string_view::npos) break;
    const size_t behind = at + separator->size();
    out.emplace_back(from_right ? text.substr(behind) : text.substr(0, at));
    text = from_right ? text.substr(0, at) : text.substr(behind);
  }
  out.emplace_back(text);
  if (from_right) std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::string> split_lines(std::string_view text) {
  static constexpr std::string_view kEnds[] = {"\r\n", "\n",   "\r",     "\v",     "\f",    "\x1c",
                                               "\x1d", "\x1e", "\u0085", "\u2028", "\u2029"};
  std::vector<std::string> out;
  for (size_t begin = 0, at = 0; at < text.size();) {
    size_t length = 0;
    for (const std::string_view end : kEnds)
      if (length == 0 && text.substr(at).starts_with(end)) length = end.size();
    if (length == 0 && ++at < text.size()) continue;
    out.emplace_back(text.substr(begin, at - begin));
    begin = at += length;
  }
  return out;
}

std::optional<std::string> indent_lines(std::string_view text, const std::string& by, bool first,
                                        bool blank) {
  std::string out;
  const auto lines = split_text(text, "\n", -1, false);
  if (lines.size() * by.size() + text.size() > kMaxText) return std::nullopt;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i == 0 ? first : blank || !lines[i].empty()) out += by;
    out += lines[i];
  }
  return out;
}

}  // namespace tessera::data::jinja
