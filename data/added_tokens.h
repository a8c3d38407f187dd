// Added tokens: the strings that are cut out of a text before it is split into words
// (tokenizer.json's "added_tokens").
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tessera::data {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool special = false;
  bool normalized = false;   // looked for in the normalised text
  bool single_word = false;  // only between non-word characters
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space behind it
};

/// Finds leftmost-longest, non-overlapping occurrences.
class AddedTokenMatcher final {
 public:
  /// A part of a text: an added token, or the text between two of them (token == nullptr).
  struct Part {
    size_t begin, end;
    const AddedToken* token;
  };

  /// `pattern`: the content, or its normal form.
  void add(const AddedToken& token, std::string_view pattern);
  [[nodiscard]] bool empty() const { return tokens_.empty(); }
  /// Cuts valid UTF-8 into parts that cover it. With `skip_special`, special tokens are ordinary
  /// text; a special token that one of the sorted offsets `plain` lies in is, too.
  void cut(std::string_view text, bool skip_special, std::vector<Part>& out,
           std::span<const size_t> plain = {}) const;

 private:
  [[nodiscard]] std::pair<int32_t, size_t> longest_at(std::string_view text, size_t at) const;

  std::vector<AddedToken> tokens_;
  std::vector<int32_t> token_of_node_{-1};
  std::unordered_map<uint64_t, int32_t> children_;  // node << 8 | byte -> node
  std::array<bool, 256> starts_{};
};

}  // namespace tessera::data
