#include "pipeline/readability.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <unordered_set>
#include <vector>

#include "data/unicode.h"

namespace tessera::pipeline {

namespace {

enum Script { kLatin, kGreek, kCyrillic, kSemitic, kIndic, kEastAsian, kOtherScript, kNumScripts };

/// By blocks: enough to tell scripts apart, not to name every letter's.
Script script_of(uint32_t c) {
  if (c < 0x370 || (c >= 0x1E00 && c < 0x1F00) || (c >= 0xFF21 && c < 0xFF5B)) return kLatin;
  if (c < 0x400 || (c >= 0x1F00 && c < 0x2000)) return kGreek;
  if (c < 0x530) return kCyrillic;
  if (c >= 0x590 && c < 0x780) return kSemitic;
  if (c >= 0x900 && c < 0xE00) return kIndic;
  if ((c >= 0x1100 && c < 0x1200) || (c >= 0x2E80 && c < 0xA000) || (c >= 0xAC00 && c < 0xD800) || (c >= 0xF900 && c < 0xFB00) || (c >= 0x20000 && c < 0x40000))
    return kEastAsian;
  return kOtherScript;
}

bool mixes_scripts(std::string_view text) {
  std::array<int64_t, kNumScripts> letters{};
  int64_t total = 0;
  for (size_t i = 0; i < text.size();) {
    const auto [value, length] = data::decode_utf8(text.data() + i);
    i += length;
    // A mathematical alphabet is Latin in disguise.
    if (value >= 0x1D400 && value < 0x1D800) continue;
    if ((data::char_classes()[value] & data::kLetter) == 0) continue;
    ++letters[script_of(value)];
    ++total;
  }
  return total >= 20 && 10 * (total - *std::max_element(letters.begin(), letters.end())) > total;
}

/// Whether more than half of at least `least` items have been there before.
bool repeats(const std::vector<std::string>& items, size_t least) {
  if (items.size() < least) return false;
  const std::unordered_set<std::string> different(items.begin(), items.end());
  return 2 * (items.size() - different.size()) > items.size();
}

std::vector<std::string> split(std::string_view text, std::string_view separators) {
  std::vector<std::string> parts;
  for (size_t begin = text.find_first_not_of(separators); begin != std::string_view::npos;) {
    const size_t end = std::min(text.find_first_of(separators, begin), text.size());
    parts.emplace_back(text.substr(begin, end - begin));
    begin = text.find_first_not_of(separators, end);
  }
  return parts;
}

std::vector<std::string> four_grams(const std::vector<std::string>& words) {
  std::vector<std::string> grams;
  for (size_t i = 0; i + 4 <= words.size(); ++i) grams.push_back(words[i] + ' ' + words[i + 1] + ' ' + words[i + 2] + ' ' + words[i + 3]);
  return grams;
}

}  // namespace

Readability judge_readability(std::string_view text) {
  const auto words = split(text, " \t\r\n");
  if (words.empty()) return Readability::kEmpty;
  if (repeats(split(text, "\r\n"), 8) || repeats(four_grams(words), 32)) return Readability::kRepeated;
  return mixes_scripts(text) ? Readability::kMixedScripts : Readability::kReadable;
}

}  // namespace tessera::pipeline
