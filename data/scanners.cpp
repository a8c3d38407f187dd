#include "data/scanners.h"

#include "data/unicode.h"

namespace tessera::data {

namespace {

struct Classified {
  uint8_t kind;  // CharClass
  uint32_t length;
};

inline Classified classify(const char* p, const uint8_t* classes) {
  const CodePoint c = decode_utf8(p);
  return {classes[c.value], c.length};
}

// End of the run of characters from `p` whose class is in `wanted`, or is not in `unwanted`.
inline const char* run_of(const char* p, const char* end, uint8_t wanted, const uint8_t* classes) {
  while (p < end) {
    const Classified c = classify(p, classes);
    if ((c.kind & wanted) == 0) break;
    p += c.length;
  }
  return p;
}

inline const char* run_without(const char* p, const char* end, uint8_t unwanted,
                               const uint8_t* classes) {
  while (p < end) {
    const Classified c = classify(p, classes);
    if ((c.kind & unwanted) != 0) break;
    p += c.length;
  }
  return p;
}

constexpr uint8_t kNotSymbols = kSpace | kLetter | kNumber;  // complement of [^\s\p{L}\p{N}]

// \s+(?!\S)|\s+ for the run of spaces [p, run_end): all but its last character when a word follows.
inline const char* spaces(const char* p, const char* run_end, const char* last, const char* end) {
  return run_end == end || last == p ? run_end : last;
}

// Length of the contraction ('s, 't, 're, 've, 'm, 'll, 'd) that begins at the apostrophe `p`, or
// 0.
inline int contraction(const char* p, const char* end) {
  if (end - p < 2) return 0;
  switch (p[1]) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return end - p >= 3 && p[2] == 'e' ? 3 : 0;
    case 'l':
      return end - p >= 3 && p[2] == 'l' ? 3 : 0;
    default:
      return 0;
  }
}

// The same without regard to case; U+017F (long s) folds to s.
inline int contraction_any_case(const char* p, const char* end) {
  if (end - p < 2) return 0;
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  if (end - p >= 3 && p[1] == '\xC5' && p[2] == '\xBF') return 3;
  switch (lower(p[1])) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return end - p >= 3 && lower(p[2]) == 'e' ? 3 : 0;
    case 'l':
      return end - p >= 3 && lower(p[2]) == 'l' ? 3 : 0;
    default:
      return 0;
  }
}

// The white space that begins at `p`: up to its last line break, or all but its last character when
// a word follows.
const char* white_space(const char* p, const char* end, const uint8_t* classes) {
  const char* after_newline = nullptr;
  const char* last = p;
  const char* q = p;
  while (q < end) {
    const Classified c = classify(q, classes);
    if (c.kind != kSpace) break;
    last = q;
    q += c.length;
    if (*last == '\r' || *last == '\n') after_newline = q;
  }
  return after_newline != nullptr ? after_newline : spaces(p, q, last, end);
}

template <int kMaxDigits>
const char* scan_cl100k(const char* p, const char* end) {
  const uint8_t* classes = char_classes();
  if (*p == '\'') {
    if (const int length = contraction_any_case(p, end)) return p + length;
  }
  const Classified first = classify(p, classes);
  const char* next = p + first.length;
  if (first.kind == kLetter) return run_of(next, end, kLetter, classes);
  if (first.kind == kNumber) {
    for (int digits = 1; digits < kMaxDigits && next < end; ++digits) {
      const Classified c = classify(next, classes);
      if (c.kind != kNumber) break;
      next += c.length;
    }
    return next;
  }
  if (*p != '\r' && *p != '\n' && next < end) {
    const Classified second = classify(next, classes);
    if (second.kind == kLetter) return run_of(next + second.length, end, kLetter, classes);
    if (*p == ' ' && (second.kind & kNotSymbols) == 0) {
      const char* q = run_without(next + second.length, end, kNotSymbols, classes);
      while (q < end && (*q == '\r' || *q == '\n')) ++q;
      return q;
    }
  }
  if (first.kind != kSpace) {
    const char* q = run_without(next, end, kNotSymbols, classes);
    while (q < end && (*q == '\r' || *q == '\n')) ++q;
    return q;
  }
  return white_space(p, end, classes);
}

constexpr uint8_t kWord = kLetter | kMark;
constexpr uint8_t kSign = kPunctuation | kSymbol;

inline bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
inline bool is_ascii_sign(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
         (c >= '{' && c <= '~');
}
inline const char* line_ends(const char* p, const char* end) {
  while (p < end && (*p == '\r' || *p == '\n')) ++p;
  return p;
}

// End of the match of DeepSeek's third pattern at `p`, or nullptr.
const char* match_deepseek(const char* p, const char* end, const uint8_t* classes) {
  if (is_ascii_sign(*p) && p + 1 < end && is_ascii_letter(p[1])) {
    for (p += 2; p < end && is_ascii_letter(*p);) ++p;
    return p;
  }
  const Classified first = classify(p, classes);
  const char* next = p + first.length;
  if ((first.kind & kWord) != 0) return run_of(next, end, kWord, classes);
  const uint8_t second = next < end ? classify(next, classes).kind : uint8_t{kOther};
  const bool opens_word = (first.kind & kSign) == 0 && *p != '\r' && *p != '\n';
  if (opens_word && (second & kWord) != 0) return run_of(next, end, kWord, classes);
  if ((first.kind & kSign) != 0) return line_ends(run_of(next, end, kSign, classes), end);
  if (*p == ' ' && (second & kSign) != 0) return line_ends(run_of(next, end, kSign, classes), end);
  return first.kind == kSpace ? white_space(p, end, classes) : nullptr;
}

inline bool is_chinese_or_japanese(uint32_t c) {
  return (c >= 0x4E00 && c <= 0x9FA5) || (c >= 0x3040 && c <= 0x30FF);
}

}  // namespace

const char* deepseek_piece(const char* p, const char* end) {
  const uint8_t* classes = char_classes();
  const auto kind_of = [&](CodePoint c) {
    return classes[c.value] == kNumber ? 1 : is_chinese_or_japanese(c.value) ? 2 : 0;
  };
  const CodePoint first = decode_utf8(p);
  const int kind = kind_of(first);
  int count = 1;
  for (p += first.length; p < end; ++count) {
    const CodePoint c = decode_utf8(p);
    if (kind_of(c) != kind || (kind == 1 && count == 3)) break;
    p += c.length;
  }
  return p;
}

const char* scan_deepseek(const char* p, const char* end) {
  const uint8_t* classes = char_classes();
  if (const char* matched = match_deepseek(p, end, classes)) return matched;
  do {
    p += decode_utf8(p).length;
  } while (p < end && match_deepseek(p, end, classes) == nullptr);
  return p;
}

const char* scan_gpt2(const char* p, const char* end) {
  const uint8_t* classes = char_classes();
  if (*p == '\'') {
    if (const int length = contraction(p, end)) return p + length;
  }
  const char* q = *p == ' ' && p + 1 < end ? p + 1 : p;
  Classified c = classify(q, classes);
  if (c.kind == kLetter) return run_of(q + c.length, end, kLetter, classes);
  if (c.kind == kNumber) return run_of(q + c.length, end, kNumber, classes);
  if (c.kind != kSpace) return run_without(q + c.length, end, kNotSymbols, classes);
  const char* last = p;
  q = p;
  while (q < end) {
    c = classify(q, classes);
    if (c.kind != kSpace) break;
    last = q;
    q += c.length;
  }
  return spaces(p, q, last, end);
}

const char* scan_llama3(const char* p, const char* end) { return scan_cl100k<3>(p, end); }
const char* scan_qwen2(const char* p, const char* end) { return scan_cl100k<1>(p, end); }

}  // namespace tessera::data
