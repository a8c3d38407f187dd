#include "rl/rewards/number.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <numbers>
#include <vector>

#include "rl/rewards/answer.h"
#include "rl/rewards/units.h"

namespace tessera::rl {
namespace {

constexpr char kThin = '\x01';  // as plain_math writes thin blanks
constexpr int kMaxDepth = 32;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

/// What a part of an expression is worth, and whether it is more than plain numbers.
struct Term {
  double value = 0;
  bool irrational = false;  // holds a root or pi
  bool literal = false;     // a number as written, without sign, fraction or power
  bool integer = false;
};

/// Reads plain_math's text from a position on. Nothing throws: a part that is not there is nullopt,
/// the position stays.
class Reader {
 public:
  Reader(std::string_view text, size_t at, bool running_text)
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
          .value = static_cast<double>(text_[at_++] - '0'), .literal = true, .integer = true};
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

/// Where the thousands separators of the number at [from, digits_end) end, and which they are;
/// `digits_end` without any.
struct Groups {
  size_t end;
  char separator;
};

std::optional<Term> Reader::literal() {
  const size_t start = at_;
  std::string digits;
  size_t end = at_;
  while (end < text_.size() && is_digit(text_[end])) digits += text_[end++];
  Groups groups{end, '\0'};
  if (!digits.empty() && digits.size() <= 3 && digits != "0") {
    for (const char separator : {',', '.', '\'', kThin, ' '}) {
      if (separator == ' ' && running_text_) continue;
      const size_t groups_end = end_of_groups(end, separator);
      if (groups_end == end) continue;
      // One point before three digits is a decimal point, unless a decimal comma follows.
      const bool comma_follows = groups_end + 1 < text_.size() && text_[groups_end] == ',' &&
                                 is_digit(text_[groups_end + 1]);
      if (separator == '.' && groups_end - end == 4 && !comma_follows) continue;
      groups = {groups_end, separator};
      break;
    }
  }
  for (size_t i = end; i < groups.end; ++i)
    if (is_digit(text_[i])) digits += text_[i];
  end = groups.end;
  bool integer = true;
  // A decimal comma is one that cannot be a thousands separator or the end of a clause.
  const auto fraction_at = [&](char mark) {
    return end + 1 < text_.size() && text_[end] == mark && is_digit(text_[end + 1]) &&
           groups.separator != mark;
  };
  if (fraction_at('.') || fraction_at(',')) {
    const char mark = text_[end];
    size_t stop = end + 1;
    while (stop < text_.size() && is_digit(text_[stop])) ++stop;
    // "1.2.3" and "1,2,3" are no numbers but versions and lists.
    const bool more = stop + 1 < text_.size() && text_[stop] == mark && is_digit(text_[stop + 1]);
    if (more && mark == '.') return std::nullopt;
    if (!more) {
      if (digits.empty()) digits = "0";
      digits += '.';
      digits.append(text_.substr(end + 1, stop - end - 1));
      end = stop;
      integer = false;
    }
  }
  if (digits.empty()) return std::nullopt;
  if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
    size_t stop = end + 1;
    if (stop < text_.size() && (text_[stop] == '-' || text_[stop] == '+')) ++stop;
    const size_t first = stop;
    while (stop < text_.size() && is_digit(text_[stop])) ++stop;
    if (stop > first) {
      digits += 'e';
      digits.append(text_.substr(text_[end + 1] == '+' ? end + 2 : end + 1,
                                 stop - (text_[end + 1] == '+' ? end + 2 : end + 1)));
      end = stop;
      integer = false;
    }
  }
  double value = 0;
  const auto [rest, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || rest != digits.data() + digits.size() || !std::isfinite(value)) {
    at_ = start;
    return std::nullopt;
  }
  at_ = end;
  return Term{.value = value, .literal = true, .integer = integer};
}

constexpr std::string_view kCurrencies[] = {"$", "€", "£", "¥", "₹", "USD", "EUR", "GBP", "CHF"};

/// Takes a currency at `at`, and the blanks behind it.
std::string take_currency(std::string_view text, size_t& at) {
  for (const std::string_view currency : kCurrencies) {
    if (!text.substr(at).starts_with(currency)) continue;
    at += currency.size();
    while (at < text.size() && (text[at] == ' ' || text[at] == kThin)) ++at;
    return std::string(currency);
  }
  return "";
}

/// The longest known unit that begins at `at`, behind blanks: up to four words, or a sign.
std::string unit_at(std::string_view text, size_t at) {
  while (at < text.size() && (text[at] == ' ' || text[at] == kThin)) ++at;
  const std::string_view rest = text.substr(at, std::min<size_t>(text.size() - at, 64));
  std::string found;
  int words = 0;
  for (size_t end = 1; end <= rest.size() && words < 4; ++end) {
    const char next = end < rest.size() ? rest[end] : ' ';
    const bool inside = is_letter(next) || is_digit(next) || next == '^' || next == '/' ||
                        next == '{' || next == '}' || next == '-';
    const bool sign = rest[end - 1] == '%' || rest[end - 1] == '$';
    if (inside && !sign) continue;
    words += next == ' ';
    const std::string_view candidate = rest.substr(0, end);
    if (find_unit(candidate)) found = candidate;
  }
  return found;
}

/// The part behind the last equals sign, where there is one.
std::string_view right_hand_side(std::string_view text) {
  size_t best = 0;
  for (const std::string_view sign : {"=", "≈"})
    if (const size_t at = text.rfind(sign); at != std::string_view::npos)
      best = std::max(best, at + sign.size());
  return text.substr(best);
}

/// `text` as nothing but one quantity with a unit of up to two words.
std::optional<Quantity> whole_quantity(std::string_view text) {
  size_t at = 0;
  Reader blanks(text, 0, false);
  blanks.blanks();
  at = blanks.position();
  const bool negative = at < text.size() && text[at] == '-';
  size_t behind_sign = at + (negative ? 1 : 0);
  std::string unit = take_currency(text, behind_sign);
  const size_t begin = unit.empty() ? at : behind_sign;
  Reader reader(text, begin, false);
  const auto value = reader.sum();
  if (!value || !std::isfinite(value->value)) return std::nullopt;
  std::string_view rest = trim(text.substr(reader.position()));
  while (!rest.empty() && (rest.back() == '.' || rest.back() == kThin || rest.back() == ','))
    rest = trim(rest.substr(0, rest.size() - 1));
  while (!rest.empty() && rest.front() == kThin) rest = trim(rest.substr(1));
  Quantity quantity{!unit.empty() && negative ? -value->value : value->value, unit};
  if (rest.empty()) return quantity;
  if (find_unit(rest)) {
    if (quantity.unit.empty()) quantity.unit = rest;
    return quantity;
  }
  // An unknown unit ("apples", "red balls") is words, not further mathematics.
  const bool words = std::all_of(rest.begin(), rest.end(),
                                 [](char c) { return is_letter(c) || c == ' ' || c == '-'; });
  if (!words || std::count(rest.begin(), rest.end(), ' ') > 1) return std::nullopt;
  if (quantity.unit.empty()) quantity.unit = rest;
  return quantity;
}

/// All numbers of running text.
std::vector<Quantity> all_quantities(std::string_view text) {
  std::vector<Quantity> found;
  for (size_t at = 0; at < text.size();) {
    const bool begins =
        is_digit(text[at]) || (text[at] == '.' && at + 1 < text.size() && is_digit(text[at + 1])) ||
        text.substr(at).starts_with("\\frac") || text.substr(at).starts_with("\\sqrt");
    if (!begins) {
      ++at;
      continue;
    }
    const auto skip_word = [&] {
      while (at < text.size() && (is_letter(text[at]) || is_digit(text[at]) || text[at] == '.'))
        ++at;
    };
    // Digits of a name: x2, CAR-A1.
    if (at > 0 && text[at] != '\\' && is_letter(text[at - 1])) {
      size_t behind_currency = at - 1;
      while (behind_currency > 0 &&
             (static_cast<unsigned char>(text[behind_currency]) & 0xC0) == 0x80)
        --behind_currency;
      if (take_currency(text, behind_currency).empty()) {
        skip_word();
        continue;
      }
    }
    Reader reader(text, at, true);
    const auto value = reader.term();
    if (!value || !std::isfinite(value->value)) {
      if (text[at] != '\\') {
        skip_word();
        continue;
      }
      // A root or fraction without a value: what it holds is no number of its own.
      while (at < text.size() && text[at] != '{' && text[at] != ' ') ++at;
      while (at < text.size() && text[at] == '{')
        at = std::min(closing_brace(text, at), text.size() - 1) + 1;
      continue;
    }
    Quantity quantity{value->value, unit_at(text, reader.position())};
    size_t before = at;
    while (before > 0 && (text[before - 1] == ' ' || text[before - 1] == kThin)) --before;
    for (const std::string_view currency : kCurrencies) {
      if (!text.substr(0, before).ends_with(currency)) continue;
      if (quantity.unit.empty()) quantity.unit = currency;
      before -= currency.size();
      break;
    }
    const bool was_currency = before < at && !quantity.unit.empty();
    const size_t sign = was_currency ? before : at;
    const bool minus = sign > 0 && text[sign - 1] == '-' &&
                       (sign == 1 || !(is_letter(text[sign - 2]) || is_digit(text[sign - 2]) ||
                                       text[sign - 2] == ')'));
    if (minus) quantity.value = -quantity.value;
    at = reader.position();
    // "2A" is a name, "2 km" and "2km" are not.
    if (at < text.size() && is_letter(text[at]) && quantity.unit.empty()) {
      skip_word();
      continue;
    }
    found.push_back(std::move(quantity));
  }
  return found;
}

std::string stem(std::string_view unit) {
  std::string small = lower(trim(unit));
  if (small.size() > 3 && small.back() == 's') small.pop_back();
  return small;
}

bool close(double given, double expected, double tolerance) {
  return std::abs(given - expected) <= tolerance * std::abs(expected);
}

}  // namespace

std::optional<Quantity> parse_quantity(std::string_view raw) {
  const std::string text = plain_math(raw);
  if (const auto whole = whole_quantity(right_hand_side(text))) return whole;
  auto found = all_quantities(right_hand_side(text));
  if (found.size() == 1) return found.front();
  return std::nullopt;
}

std::optional<Quantity> last_quantity(std::string_view raw) {
  auto found = all_quantities(plain_math(raw));
  if (found.empty()) return std::nullopt;
  return found.back();
}

bool same_quantity(const Quantity& given, const Quantity& expected, double tolerance) {
  const auto given_unit = find_unit(given.unit), expected_unit = find_unit(expected.unit);
  const auto percent = [](const std::optional<Unit>& unit) {
    return unit && unit->dimension == "percent";
  };
  if (given.unit.empty() || expected.unit.empty()) {
    if (close(given.value, expected.value, tolerance)) return true;
    if (percent(given_unit) && expected.unit.empty())
      return close(given.value / 100, expected.value, tolerance);
    if (percent(expected_unit) && given.unit.empty())
      return close(given.value, expected.value / 100, tolerance);
    return false;
  }
  if (given_unit && expected_unit) {
    return given_unit->dimension == expected_unit->dimension &&
           close(given.value * given_unit->factor, expected.value * expected_unit->factor,
                 std::max(tolerance, 1e-12));
  }
  return stem(given.unit) == stem(expected.unit) && close(given.value, expected.value, tolerance);
}

}  // namespace tessera::rl
