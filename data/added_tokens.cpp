#include "data/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>

#include "data/unicode.h"

namespace tessera::data {

namespace {
uint8_t class_at(std::string_view text, size_t at) {
  return char_classes()[decode_utf8(text.data() + at).value];
}

size_t previous_char(std::string_view text, size_t at) {
  do {
    --at;
  } while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

bool is_word(std::string_view text, size_t at) {
  const CodePoint c = decode_utf8(text.data() + at);
  if ((char_classes()[c.value] & (kLetter | kMark)) != 0) return true;
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c.value));
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
         category == UTF8PROC_CATEGORY_PC ||
         (category == UTF8PROC_CATEGORY_CN &&
          char_classes()[c.value] == kNumber);  // a digit newer than utf8proc
}
}  // namespace

void AddedTokenMatcher::add(const AddedToken& token, std::string_view pattern) {
  if (pattern.empty()) return;
  size_t node = 0;
  for (const char c : pattern) {
    const uint64_t key = static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(c);
    const auto [found, inserted] =
        children_.try_emplace(key, static_cast<int32_t>(token_of_node_.size()));
    if (inserted) token_of_node_.push_back(-1);
    node = static_cast<size_t>(found->second);
  }
  starts_[static_cast<unsigned char>(pattern[0])] = true;
  if (token_of_node_[node] < 0) token_of_node_[node] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
}

std::pair<int32_t, size_t> AddedTokenMatcher::longest_at(std::string_view text, size_t at) const {
  std::pair<int32_t, size_t> best{-1, 0};
  size_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const auto found =
        children_.find(static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(text[i]));
    if (found == children_.end()) break;
    node = static_cast<size_t>(found->second);
    if (token_of_node_[node] >= 0) best = {token_of_node_[node], i + 1};
  }
  return best;
}

void AddedTokenMatcher::cut(std::string_view text, bool skip_special, std::vector<Part>& out,
                            std::span<const size_t> plain) const {
  out.clear();
  size_t covered = 0;
  size_t at = tokens_.empty() ? text.size() : 0;
  while (at < text.size()) {
    if (!starts_[static_cast<unsigned char>(text[at])]) {
      ++at;
      continue;
    }
    const auto [index, end] = longest_at(text, at);
    if (index < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(index)];
    size_t begin = at, stop = end;
    const auto inside = std::upper_bound(plain.begin(), plain.end(), begin);
    if (token.special && inside != plain.end() && *inside < stop) {
      ++at;
      continue;
    }
    at = end;
    if (skip_special && token.special) continue;
    if (token.single_word) {
      const bool word_before = begin > 0 && is_word(text, previous_char(text, begin));
      const bool word_behind = stop < text.size() && is_word(text, stop);
      if (word_before || word_behind) continue;
    }
    if (token.lstrip) {
      while (begin > covered && class_at(text, previous_char(text, begin)) == kSpace)
        begin = previous_char(text, begin);
    }
    if (token.rstrip) {
      while (stop < text.size() && class_at(text, stop) == kSpace)
        stop += decode_utf8(text.data() + stop).length;
    }
    begin = std::max(begin, covered);
    if (covered < begin) out.push_back({covered, begin, nullptr});
    out.push_back({begin, std::max(begin, stop), &token});
    covered = std::max(begin, stop);
  }
  if (covered < text.size()) out.push_back({covered, text.size(), nullptr});
}

}  // namespace tessera::data
