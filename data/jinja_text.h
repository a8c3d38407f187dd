// Python's functions on strings, as chat templates call them.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::data::jinja {

/// What functions that multiply their input make at most, in bytes.
inline constexpr size_t kMaxText = 16 << 20;

/// Code points of valid UTF-8 as strings.
[[nodiscard]] std::vector<std::string_view> characters(std::string_view text);
/// str.isspace for one character.
[[nodiscard]] bool is_space(std::string_view character);

[[nodiscard]] std::string upper_case(std::string_view text);
[[nodiscard]] std::string lower_case(std::string_view text);
[[nodiscard]] std::string capitalize(std::string_view text);
/// str.title: a word begins behind anything that is no letter.
[[nodiscard]] std::string title(std::string_view text);
/// Jinja's title filter: a word begins behind white space, a hyphen or an opening bracket.
[[nodiscard]] std::string title_words(std::string_view text);

/// Without the characters of `chars` (white space if absent) at its ends.
[[nodiscard]] std::string strip(std::string_view text, const std::optional<std::string>& chars,
                                bool left, bool right);
/// At most `count` replacements, all if negative. `from` is not empty. Nothing when the text would
/// pass kMaxText.
[[nodiscard]] std::optional<std::string> replace_all(std::string_view text, const std::string& from,
                                                     const std::string& to, int64_t count);
/// str.split (from_right: str.rsplit) with at most `limit` cuts, all if negative; at white space
/// when no separator is given.
[[nodiscard]] std::vector<std::string> split_text(std::string_view text,
                                                  const std::optional<std::string>& separator,
                                                  int64_t limit, bool from_right);
[[nodiscard]] std::vector<std::string> split_lines(std::string_view text);
/// Jinja's indent filter. Nothing when the text would pass kMaxText.
[[nodiscard]] std::optional<std::string> indent_lines(std::string_view text, const std::string& by,
                                                      bool first, bool blank);

}  // namespace tessera::data::jinja
