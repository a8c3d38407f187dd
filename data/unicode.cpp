#include "data/unicode.h"

#include <cstring>
#include <vector>

namespace tessera::data {

namespace {
constexpr size_t kCodePoints = 0x110000;

std::vector<uint8_t> make_classes() {
  std::vector<uint8_t> classes(kCodePoints, kOther);
  size_t position = 0;
  for (int i = 0; i < table::kNumUnicodeRuns; ++i) {
    const table::UnicodeRun& run = table::kUnicodeRuns[i];
    const uint8_t value = run.category == 'L'   ? kLetter
                          : run.category == 'M' ? kMark
                          : run.category == 'N' ? kNumber
                          : run.category == 'P' ? kPunctuation
                                                : kSymbol;
    position += run.gap;
    std::memset(classes.data() + position, value, run.length);
    position += run.length;
  }
  // White_Space of the Unicode character database, stable since version 6.3.
  for (uint32_t c : {0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x20, 0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F,
                     0x205F, 0x3000}) {
    classes[c] = kSpace;
  }
  for (uint32_t c = 0x2000; c <= 0x200A; ++c) classes[c] = kSpace;
  return classes;
}

// Length of the well-formed sequence at `p`, or 0; then `bad` is the length of the maximal
// ill-formed part.
size_t sequence_length(const unsigned char* p, size_t left, size_t& bad) {
  bad = 1;
  const unsigned char lead = p[0];
  if (lead < 0x80) return 1;
  size_t need = 0;
  unsigned char low = 0x80, high = 0xBF;  // what the second byte may be
  if (lead >= 0xC2 && lead <= 0xDF) {
    need = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    need = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    need = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return 0;
  }
  for (size_t i = 1; i < need; ++i) {
    if (i >= left || p[i] < low || p[i] > high) {
      bad = i;
      return 0;
    }
    low = 0x80;
    high = 0xBF;
  }
  return need;
}
}  // namespace

const uint8_t* char_classes() {
  static const std::vector<uint8_t> classes = make_classes();
  return classes.data();
}

void append_utf8(uint32_t c, std::string& out) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

bool is_valid_utf8(std::string_view text) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  const unsigned char* end = p + text.size();
  while (p < end) {
    while (end - p >= 8) {  // eight ASCII bytes at a time
      uint64_t word;
      std::memcpy(&word, p, 8);
      if ((word & 0x8080808080808080ull) != 0) break;
      p += 8;
    }
    if (p == end) break;
    size_t bad = 0;
    const size_t length = sequence_length(p, static_cast<size_t>(end - p), bad);
    if (length == 0) return false;
    p += length;
  }
  return true;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  const unsigned char* end = p + text.size();
  while (p < end) {
    size_t bad = 0;
    const size_t length = sequence_length(p, static_cast<size_t>(end - p), bad);
    if (length > 0) {
      out.append(reinterpret_cast<const char*>(p), length);
      p += length;
    } else {
      out += "\xEF\xBF\xBD";
      p += bad;
    }
  }
  return out;
}

}  // namespace tessera::data
