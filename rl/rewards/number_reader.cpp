#include "rl/rewards/number_reader.h"

#include <charconv>
#include <cmath>

namespace tessera::rl {
namespace {

/// Where the thousands separators of the number at [from, digits_end) end, and which they are;
/// `digits_end` without any.
struct Groups {
  size_t end;
  char separator;
};

}  // namespace

std::optional<Term> NumberReader::literal() {
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
  return Term{.value = value, .integer = integer};
}

}  // namespace tessera::rl
