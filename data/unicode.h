// UTF-8 and the character classes that pre-tokenizers ask for, in the Unicode version of Hugging
// Face's tokenizers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tessera::data {

enum CharClass : uint8_t {
  kOther = 0,
  kLetter = 1,
  kMark = 2,
  kNumber = 4,
  kPunctuation = 8,
  kSymbol = 16,
  kSpace = 32,
};

namespace table {
struct UnicodeRun {
  uint32_t gap;
  uint32_t length;
  char category;
};
extern const UnicodeRun kUnicodeRuns[];
extern const int kNumUnicodeRuns;

/// Members of \p{property} in tokenizers' regular expressions that PCRE2 of Unicode 14 does not
/// know.
struct NewerRange {
  const char* property;
  uint32_t first, last;
};
extern const NewerRange kNewerRanges[];
extern const int kNumNewerRanges;

/// Characters too new for tokenizers' normaliser: they stay, and nothing combines across them.
extern const uint32_t kUnnormalized[][2];
extern const int kNumUnnormalized;
}  // namespace table

/// The class of each of the 0x110000 code points.
[[nodiscard]] const uint8_t* char_classes();

struct CodePoint {
  uint32_t value;
  uint32_t length;  // bytes
};

/// Decodes the code point at `p` of valid UTF-8.
inline CodePoint decode_utf8(const char* p) {
  const auto* u = reinterpret_cast<const unsigned char*>(p);
  if (u[0] < 0x80) return {u[0], 1};
  if (u[0] < 0xE0) return {(u[0] & 0x1Fu) << 6 | (u[1] & 0x3Fu), 2};
  if (u[0] < 0xF0) return {(u[0] & 0x0Fu) << 12 | (u[1] & 0x3Fu) << 6 | (u[2] & 0x3Fu), 3};
  return {(u[0] & 0x07u) << 18 | (u[1] & 0x3Fu) << 12 | (u[2] & 0x3Fu) << 6 | (u[3] & 0x3Fu), 4};
}

void append_utf8(uint32_t code_point, std::string& out);

[[nodiscard]] bool is_valid_utf8(std::string_view text);

/// Each maximal ill-formed part becomes one U+FFFD (Unicode 15, section 3.9, as Rust's
/// from_utf8_lossy).
[[nodiscard]] std::string replace_invalid_utf8(std::string_view text);

}  // namespace tessera::data
