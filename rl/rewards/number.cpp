#include "rl/rewards/number.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <vector>

#include "rl/rewards/answer.h"
#include "rl/rewards/number_reader.h"
#include "rl/rewards/units.h"

namespace tessera::rl {
namespace {

bool is_letter(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
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
  NumberReader blanks(text, 0, false);
  blanks.blanks();
  at = blanks.position();
  const bool negative = at < text.size() && text[at] == '-';
  size_t behind_sign = at + (negative ? 1 : 0);
  std::string unit = take_currency(text, behind_sign);
  const size_t begin = unit.empty() ? at : behind_sign;
  NumberReader reader(text, begin, false);
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
    NumberReader reader(text, at, true);
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
