// Reads one number or closed form from plain_math's text; number.cpp says what counts as an answer.
#pragma once

#include <cmath>
#include <numbers>
#include <optional>
#include <string>
#include <string_view>

namespace tessera::rl {

/// How plain_math writes a blank that may stand between groups of digits.
inline constexpr char kThin = '\x01';

inline bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// What a part of an expression is worth, and whether it is more than plain numbers.
struct Term {
  double value = 0;
  bool irrational = false;  // holds a root or pi
  bool integer = false;
};

/// Reads plain_math's text from a position on. Nothing throws: a part that is not there is nullopt,
/// the position stays.
class NumberReader final {
 public:
  NumberReader(std::string_view text, size_t at, bool running_text)
      : text_(text), at_(at), running_text_(running_text) {}

  [[nodiscard]] size_t position() const { return at_; }

  std::optional<Term> sum() {
    if (++depth_ > kMaxDepth) return std::nullopt;
    std::optional<Term> total = term();
    while (total) {
      const size_t before = at_;
      blanks();
      const char sign = peek();
      if (sign != '+' && sign != '-') {
        at_ = before;
        break;
      }
      ++at_;
      const auto next = term();
      // Plain numbers must have been added up.
      if (!next || !(total->irrational || next->irrational)) {
        at_ = before;
        break;
      }
      total = Term{.value = sign == '+' ? total->value + next->value : total->value - next->value,
                   .irrational = true};
    }
    --depth_;
    return total;
  }

  /// A signed product: 5, -3/4, 2\sqrt{3}, 1.5 × 10^{-3}, 3 1/2.
  std::optional<Term> term() {
    const size_t start = at_;
    blanks();
    bool negative = false;
    if (peek() == '-' || peek() == '+') negative = text_[at_++] == '-';
    blanks();
    auto product = factor();
    if (!product) {
      at_ = start;
      return std::nullopt;
    }
    while (extend(*product)) {
    }
    if (negative) product->value = -product->value;
    return product;
  }

  void blanks() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == kThin))
      ++at_;
  }

 private:
  static constexpr int kMaxDepth = 32;

  [[nodiscard]] char peek(size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }
  [[nodiscard]] bool sees(std::string_view word) const {
    return text_.substr(at_).starts_with(word);
  }
  bool take(std::string_view word) {
    if (!sees(word)) return false;
    at_ += word.size();
    return true;
  }

  /// One more factor behind `product`, if there is one that belongs to it.
  bool extend(Term& product) {
    const size_t before = at_;
    blanks();
    const bool apart = at_ > before;
    if (take("/")) {
      blanks();
      const auto divisor = factor();
      if (divisor && divisor->value != 0) {
        product = {.value = product.value / divisor->value,
                   .irrational = product.irrational || divisor->irrational};
        return true;
      }
    } else if (take("×") || (apart && (take("x ") || take("* "))) || take("*")) {
      // A product with a power of ten, a root or pi; one of plain numbers must have been computed.
      blanks();
      const bool ten = sees("10^");
      const auto next = factor();
      if (next && (ten || next->irrational || product.irrational)) {
        product = {.value = product.value * next->value,
                   .irrational = product.irrational || next->irrational};
        return true;
      }
    } else if (sees("\\sqrt") || sees("π")) {
      if (const auto next = factor()) {
        product = {.value = product.value * next->value, .irrational = true};
        return true;
      }
    } else if (product.integer && sees("\\frac")) {
      if (const auto next = factor(); next && !next->irrational)
        return add_fraction(product, next->value);
    } else if (product.integer && apart && is_digit(peek())) {
      const auto above = literal();
      if (above && above->integer && take("/")) {
        const auto below = literal();
        if (below && below->integer && below->value > above->value)
          return add_fraction(product, above->value / below->value);
      }
    }
    at_ = before;
    return false;
  }

  static bool add_fraction(Term& product, double fraction) {
    product = {.value = product.value + fraction};
    return true;
  }

  std::optional<Term> factor() {
    if (++depth_ > kMaxDepth) return std::nullopt;
    auto base = atom();
    --depth_;
    if (!base || peek() != '^') return base;
    const size_t before = at_++;
    const auto exponent = argument();
    if (!exponent) {
      at_ = before;
      return base;
    }
    return Term{.value = std::pow(base->value, exponent->value), .irrational = base->irrational};
  }

  std::optional<Term> atom() {
    const size_t start = at_;
    if (take("\\frac")) {
      const auto above = argument(), below = above ? argument() : std::nullopt;
      if (below && below->value != 0)
        return Term{.value = above->value / below->value,
                    .irrational = above->irrational || below->irrational};
    } else if (take("\\sqrt")) {
      double degree = 2;
      if (take("[")) {
        const auto given = literal();
        if (given && take("]")) degree = given->value;
      }
      const auto inside = argument();
      if (inside && inside->value >= 0 && degree > 0)
        return Term{.value = std::pow(inside->value, 1 / degree), .irrational = true};
    } else if (take("π")) {
      return Term{.value = std::numbers::pi, .irrational = true};
    } else if (take("(")) {
      const auto inside = sum();
      blanks();
      if (inside && take(")"))
        return Term{.value = inside->value, .irrational = inside->irrational};
    } else {
      return literal();
    }
    at_ = start;
    return std::nullopt;
  }

  /// What a LaTeX command or a power applies to: {...}, (...), or one digit; of a power also a
  /// number.
  std::optional<Term> argument() {
    const size_t start = at_;
    blanks();
    if (take("{")) {
      const auto inside = sum();
      blanks();
      if (inside && take("}")) return inside;
    } else if (text_.substr(0, at_).ends_with('^') &&
               (is_digit(peek()) || (peek() == '-' && is_digit(peek(1))))) {
      const bool negative = take("-");
      if (auto number = literal()) {
        if (negative) number->value = -number->value;
        return number;
      }
    } else if (is_digit(peek())) {
      return Term{
          .value = static_cast<double>(text_[at_++] - '0'), .integer = true};
    } else if (peek() == '(' || sees("π") || sees("\\sqrt")) {
      return atom();
    }
    at_ = start;
    return std::nullopt;
  }

  /// Whether groups of three digits, each behind one of `separator`, follow; takes none.
  [[nodiscard]] size_t end_of_groups(size_t at, char separator) const {
    size_t end = at;
    const auto digit = [&](size_t i) { return i < text_.size() && is_digit(text_[i]); };
    while (end < text_.size() && text_[end] == separator && digit(end + 1) && digit(end + 2) &&
           digit(end + 3) && !digit(end + 4))
      end += 4;
    return end;
  }

  std::optional<Term> literal();

  std::string_view text_;
  size_t at_;
  bool running_text_;
  int depth_ = 0;
};

}  // namespace tessera::rl
