#include "data/jinja_lexer.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <regex>

#include "core/error.h"
#include "data/unicode.h"

namespace tessera::data::jinja {

namespace {

bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}
bool is_name(char c) { return c == '_' || std::isalnum(static_cast<unsigned char>(c)) != 0; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Lexer {
 public:
  Lexer(std::string_view source, const std::string& name) : name_(name) {
    // Jinja reads every line end as \n and drops the last one.
    source_.reserve(source.size());
    for (size_t i = 0; i < source.size(); ++i) {
      if (source[i] == '\r') {
        source_ += '\n';
        if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
      } else {
        source_ += source[i];
      }
    }
    if (!source_.empty() && source_.back() == '\n') source_.pop_back();
  }

  std::vector<Token> run() {
    while (at_ < source_.size()) text_and_tag();
    tokens_.push_back({TokenKind::kEnd, "", line_});
    return std::move(tokens_);
  }

 private:
  template <typename... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw ConfigError(tessera::detail::concat(name_, ":", line_, ": ", parts...));
  }

  void advance(size_t count) {
    for (size_t i = 0; i < count; ++i) line_ += source_[at_ + i] == '\n';
    at_ += count;
  }

  void text_and_tag() {
    size_t open = at_;
    while (true) {
      open = source_.find('{', open);
      if (open == std::string::npos || open + 1 >= source_.size()) {
        open = source_.size();
        break;
      }
      const char next = source_[open + 1];
      if (next == '{' || next == '%' || next == '#') break;
      ++open;
    }
    std::string text = source_.substr(at_, open - at_);
    const bool tag = open < source_.size();
    const char kind = tag ? source_[open + 1] : ' ';
    const char sign = tag && open + 2 < source_.size() ? source_[open + 2] : ' ';
    if (strip_next_) {
      const auto first = std::find_if_not(text.begin(), text.end(), is_space);
      text.erase(text.begin(), first);
    }
    if (tag && sign == '-') {
      while (!text.empty() && is_space(text.back())) text.pop_back();
    } else if (tag && kind != '{' && sign != '+') {  // lstrip_blocks
      const size_t start = text.rfind('\n') + 1;
      const bool blank =
          std::all_of(text.begin() + static_cast<std::ptrdiff_t>(start), text.end(), is_space);
      if (blank && (start > 0 || line_starts_)) text.erase(start);
    }
    if (!text.empty()) tokens_.push_back({TokenKind::kText, text, line_});
    advance(open - at_);
    strip_next_ = false;
    line_starts_ = false;
    if (!tag) return;
    advance(2);
    if (kind == '#') {
      comment();
      return;
    }
    if (at_ < source_.size() && (source_[at_] == '-' || source_[at_] == '+')) advance(1);
    const bool block = kind == '%';
    if (block && raw()) return;
    tokens_.push_back({block ? TokenKind::kBlockBegin : TokenKind::kOutputBegin, "", line_});
    while (!tag_end(block)) tag_token();
    tokens_.push_back({block ? TokenKind::kBlockEnd : TokenKind::kOutputEnd, "", line_});
  }

  // {% raw %} text {% endraw %}: the text stays as it is.
  bool raw() {
    static const std::regex kOpen(R"(\s*raw\s*([-+]?)%\})"),
        kClose(R"(\{%([-+]?)\s*endraw\s*([-+]?)%\})");
    std::smatch open, close;
    const auto start = source_.cbegin() + static_cast<std::ptrdiff_t>(at_);
    const size_t word = source_.find_first_not_of(" \t\n", at_);
    if (word == std::string::npos || source_.compare(word, 3, "raw") != 0) return false;
    if (!std::regex_search(start, source_.cend(), open, kOpen,
                           std::regex_constants::match_continuous))
      return false;
    advance(static_cast<size_t>(open.length()));
    after_block(open[1] == "-", open[1] != "+");
    const auto from = source_.cbegin() + static_cast<std::ptrdiff_t>(at_);
    if (!std::regex_search(from, source_.cend(), close, kClose)) fail("{% raw %} is not closed");
    std::string text(from, from + close.position());
    if (strip_next_) text.erase(text.begin(), std::find_if_not(text.begin(), text.end(), is_space));
    if (close[1] == "-")
      while (!text.empty() && is_space(text.back())) text.pop_back();
    tokens_.push_back({TokenKind::kText, text, line_});
    advance(static_cast<size_t>(close.position() + close.length()));
    after_block(close[2] == "-", close[2] != "+");
    return true;
  }

  void comment() {
    const size_t close = source_.find("#}", at_);
    if (close == std::string::npos) fail("a comment {# is not closed");
    const bool strip = close > at_ && source_[close - 1] == '-';
    advance(close + 2 - at_);
    after_block(strip, true);
  }

  // Behind a closed tag: "-" strips white space, trim_blocks takes one newline.
  void after_block(bool strip, bool trim) {
    strip_next_ = strip;
    if (!strip && trim && at_ < source_.size() && source_[at_] == '\n') {
      advance(1);
      line_starts_ = true;
    }
  }

  bool tag_end(bool block) {
    while (at_ < source_.size() && is_space(source_[at_])) advance(1);
    if (at_ >= source_.size()) fail("a tag is not closed");
    const std::string_view rest = std::string_view(source_).substr(at_);
    const std::string_view close = block ? "%}" : "}}";
    if (depth_ == 0 && rest.starts_with(close)) {
      advance(2);
      after_block(false, block);
      return true;
    }
    if ((rest[0] == '-' || rest[0] == '+') && rest.substr(1).starts_with(close)) {
      advance(3);
      after_block(rest[0] == '-', false);
      return true;
    }
    return false;
  }

  void tag_token() {
    const char c = source_[at_];
    if (c == '\'' || c == '"') {
      string_literal(c);
    } else if (is_digit(c)) {
      number();
    } else if (is_name(c)) {
      size_t end = at_;
      while (end < source_.size() && is_name(source_[end])) ++end;
      push(TokenKind::kName, end - at_);
    } else {
      static constexpr std::array<std::string_view, 6> kLong = {"**", "//", "==", "!=", "<=", ">="};
      const std::string_view rest = std::string_view(source_).substr(at_);
      for (const std::string_view op : kLong) {
        if (rest.starts_with(op)) return push(TokenKind::kOperator, 2);
      }
      if (std::string_view("+-*/%~<>=.,:|()[]{}").find(c) == std::string_view::npos)
        fail("unexpected character '", c, "'");
      if (c == '(' || c == '[' || c == '{') ++depth_;
      if ((c == ')' || c == ']' || c == '}') && --depth_ < 0) fail("unbalanced '", c, "'");
      push(TokenKind::kOperator, 1);
    }
  }

  void push(TokenKind kind, size_t length) {
    tokens_.push_back({kind, source_.substr(at_, length), line_});
    advance(length);
  }

  void number() {
    size_t end = at_;
    while (end < source_.size() && is_digit(source_[end])) ++end;
    bool real = false;
    if (end + 1 < source_.size() && source_[end] == '.' && is_digit(source_[end + 1])) {
      real = true;
      for (++end; end < source_.size() && is_digit(source_[end]);) ++end;
    }
    if (end - at_ > 18) fail("a number is too long");
    push(real ? TokenKind::kFloat : TokenKind::kInteger, end - at_);
  }

  void string_literal(char quote) {
    std::string value;
    const int line = line_;
    advance(1);
    while (true) {
      if (at_ >= source_.size()) fail("a string is not closed");
      char c = source_[at_];
      if (c == quote) break;
      if (c == '\\') {
        advance(1);
        if (at_ >= source_.size()) fail("a string is not closed");
        escape(value);
        continue;
      }
      value += c;
      advance(1);
    }
    advance(1);
    tokens_.push_back({TokenKind::kString, value, line});
  }

  void escape(std::string& value) {
    const char c = source_[at_];
    advance(1);
    switch (c) {
      case 'n':
        value += '\n';
        return;
      case 't':
        value += '\t';
        return;
      case 'r':
        value += '\r';
        return;
      case 'b':
        value += '\b';
        return;
      case 'f':
        value += '\f';
        return;
      case '\n':
        return;
      case '\\':
      case '\'':
      case '"':
        value += c;
        return;
      case 'x':
        return code_point(2, value);
      case 'u':
        return code_point(4, value);
      case 'U':
        return code_point(8, value);
      default:
        break;
    }
    if (is_digit(c) || c == 'N' || c == 'a' || c == 'v')
      fail("the string escape \\", c, " is not supported");
    value += '\\';
    value += c;
  }

  void code_point(size_t digits, std::string& value) {
    if (at_ + digits > source_.size()) fail("a string escape is cut short");
    uint32_t c = 0;
    for (size_t i = 0; i < digits; ++i) {
      const char d = source_[at_ + i];
      if (std::isxdigit(static_cast<unsigned char>(d)) == 0)
        fail("a string escape needs ", digits, " hexadecimal digits");
      c = c * 16 + static_cast<uint32_t>(is_digit(d) ? d - '0' : (d | 32) - 'a' + 10);
    }
    if (c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) fail("a string escape is no character");
    append_utf8(c, value);
    advance(digits);
  }

  const std::string& name_;
  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  int depth_ = 0;  // of brackets inside a tag
  bool strip_next_ = false, line_starts_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize_template(std::string_view source, const std::string& name) {
  return Lexer(source, name).run();
}

}  // namespace tessera::data::jinja
