#include "data/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstdio>

#include "core/error.h"
#include "data/unicode.h"

namespace tessera::data {

namespace {
constexpr size_t kMaxPatternBytes = 1 << 16;
constexpr uint32_t kMatchLimit = 50'000'000;
// What Oniguruma means by \s and \w: PCRE2 adds U+180E to the first and leaves marks out of the
// second.
constexpr std::string_view kSpaceMembers = R"(\t-\r\x{85}\p{Z})";
constexpr std::string_view kWordMembers = R"(\p{L}\p{M}\p{Nd}\p{Pc})";

// Class members "\x{..}-\x{..}" of the characters that Hugging Face's engine has in `property` and
// PCRE2 may not.
std::string newer_members(std::string_view property) {
  std::string out;
  for (int i = 0; i < table::kNumNewerRanges; ++i) {
    const table::NewerRange& range = table::kNewerRanges[i];
    if (property != range.property) continue;
    char text[40];
    std::snprintf(text, sizeof text, "\\x{%x}-\\x{%x}", range.first, range.last);
    out += text;
  }
  return out;
}

// The members that a class escape at `i` (behind the backslash) stands for; "" when it stands for
// itself. Moves `i` to its last character and tells whether it is negated.
std::string class_members(const std::string& pattern, size_t& i, bool in_class, bool& negated) {
  const char kind = pattern[i];
  negated = kind == 'S' || kind == 'W';
  if (kind == 's' || kind == 'S') return std::string(kSpaceMembers);
  if (kind == 'w' || kind == 'W') {
    // Outside of a class, Oniguruma takes the six Latin-1 numerics (superscripts, fractions) for
    // word characters too.
    return std::string(kWordMembers) + (in_class ? "" : R"(\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})") +
           newer_members("w");
  }
  if ((kind != 'p' && kind != 'P') || i + 1 >= pattern.size() || pattern[i + 1] != '{') return "";
  const size_t close = pattern.find('}', i);
  if (close == std::string::npos) return "";
  std::string name = pattern.substr(i + 2, close - i - 2);
  negated = kind == 'P';
  if (!name.empty() && name[0] == '^') {
    negated = !negated;
    name.erase(0, 1);
  }
  const std::string newer = newer_members(name);
  if (newer.empty()) return "";
  i = close;
  return "\\p{" + name + "}" + newer;
}
}  // namespace

std::string translate_pattern(const std::string& pattern, std::string_view where) {
  const auto refuse = [&](const std::string& what) {
    throw ConfigError(detail::concat(where, ": the pattern '", pattern, "' uses ", what,
                                     ", which is not supported here"));
  };
  std::string out;
  int class_depth = 0;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char next = pattern[++i];
      bool negated = false;
      const size_t start = i;
      if (const std::string members = class_members(pattern, i, class_depth > 0, negated);
          !members.empty()) {
        if (negated && class_depth > 0)
          refuse("\\" + pattern.substr(start, i - start + 1) + " inside a class");
        out += class_depth > 0 ? members : detail::concat(negated ? "[^" : "[", members, ']');
      } else if (next == 'h' || next == 'H' || next == 'X' || next == 'R' || next == 'K' ||
                 next == 'g' || next == 'k' || next == 'b' || next == 'B' || next == 'G' ||
                 next == 'C') {
        refuse(detail::concat("\\", next));
      } else if (next == 'u') {  // \uHHHH
        const std::string digits = pattern.substr(i + 1, 4);
        if (digits.size() < 4 ||
            digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos)
          refuse("\\u");
        out += "\\x{" + digits + "}";
        i += 4;
      } else {
        out += c;
        out += next;
      }
      continue;
    }
    if (c == '[') {
      const bool posix = class_depth > 0 && i + 1 < pattern.size() && pattern[i + 1] == ':';
      if (class_depth > 0 && !posix) refuse("a class inside a class");
      if (posix) {
        const size_t close = pattern.find(":]", i);
        if (close == std::string::npos) refuse("an unclosed [: class");
        out.append(pattern, i, close + 2 - i);
        i = close + 1;
        continue;
      }
      class_depth = 1;
      out += c;
      if (i + 1 < pattern.size() && pattern[i + 1] == '^') out += pattern[++i];
      if (i + 1 < pattern.size() && pattern[i + 1] == ']')
        refuse("']' as the first member of a class");
      continue;
    }
    if (c == ']' && class_depth > 0) class_depth = 0;
    if (c == '&' && class_depth > 0 && i + 1 < pattern.size() && pattern[i + 1] == '&')
      refuse("a class intersection");
    if (c == '(' && class_depth == 0 && pattern.compare(i, 2, "(*") == 0) refuse("a control verb");
    if (c == '(' && class_depth == 0 && pattern.compare(i, 4, "(?m)") == 0) refuse("(?m)");
    out += c;
  }
  return out;
}

struct RegexScratch::State {
  pcre2_match_data* data = pcre2_match_data_create(64, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 << 10, 4 << 20, nullptr);
  explicit State(uint32_t match_limit) {
    TESSERA_CHECK(data != nullptr && context != nullptr && stack != nullptr, "out of memory");
    pcre2_jit_stack_assign(context, nullptr, stack);
    pcre2_set_match_limit(context, match_limit == 0 ? kMatchLimit : match_limit);
  }
  ~State() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

RegexScratch::RegexScratch(uint32_t match_limit)
    : state_(std::make_unique<State>(match_limit)) {}
RegexScratch::~RegexScratch() = default;

struct Regex::Code {
  std::string where, pattern;
  pcre2_code* compiled = nullptr;
  ~Code() { pcre2_code_free(compiled); }
};

Regex::Regex(const std::string& pattern, std::string_view where, RegexDialect dialect)
    : code_(std::make_unique<Code>()) {
  code_->where = where;
  code_->pattern = pattern.size() > 200 ? pattern.substr(0, 200) + "..." : pattern;
  if (pattern.size() > kMaxPatternBytes)
    throw ConfigError(
        detail::concat(where, ": a pattern of ", pattern.size(), " bytes is too long"));
  const bool plain = dialect == RegexDialect::kPcre2;
  const std::string translated = plain ? pattern : translate_pattern(pattern, where);
  int error = 0;
  PCRE2_SIZE at = 0;
  code_->compiled = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | (plain ? 0 : PCRE2_MULTILINE), &error, &at,
      nullptr);
  if (code_->compiled == nullptr) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof message);
    throw ConfigError(detail::concat(where, ": the pattern '", code_->pattern,
                                     "' does not compile: ", reinterpret_cast<const char*>(message),
                                     " (at ", at, ")"));
  }
  pcre2_jit_compile(
      code_->compiled,
      PCRE2_JIT_COMPLETE);  // where there is no JIT the interpreter does the same, slower
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

std::pair<size_t, size_t> Regex::find(std::string_view text, size_t from,
                                      RegexScratch& scratch) const {
  const int result =
      pcre2_match(code_->compiled, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                  PCRE2_NO_UTF_CHECK, scratch.state_->data, scratch.state_->context);
  if (result == PCRE2_ERROR_NOMATCH) return {std::string_view::npos, std::string_view::npos};
  if (result < 0) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(result, message, sizeof message);
    throw ConfigError(detail::concat(code_->where, ": the pattern '", code_->pattern,
                                     "' failed on a text of ", text.size(),
                                     " bytes: ", reinterpret_cast<const char*>(message)));
  }
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(scratch.state_->data);
  TESSERA_CHECK(range[0] <= range[1] && range[1] <= text.size(), "a match outside the text");
  return {range[0], range[1]};
}

}  // namespace tessera::data
