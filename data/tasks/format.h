// How problems write numbers, times and dates. Private to data/tasks/.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace tessera::data {

/// The ways to say one thing, with places for values.
using Forms = std::array<const char*, 3>;

/// `pattern` with {0}, {1}, ... replaced by the values.
[[nodiscard]] std::string fill_places(std::string_view pattern, const std::vector<std::string>& values);
template <typename... Values>
[[nodiscard]] std::string fill_form(std::string_view pattern, const Values&... values) {
  return fill_places(pattern, {detail::concat(values)...});
}

/// "1 bottle", "3 bottles".
[[nodiscard]] std::string count_of(int64_t count, std::string_view thing);

/// Minutes after midnight as "08:05".
[[nodiscard]] std::string clock_time(int64_t minutes);

/// value / 10^digits with all digits: (1250, 2) -> "12.50". Not for negative values.
[[nodiscard]] std::string fixed(int64_t value, int digits);

/// Hundredths as an amount of money: 120050 -> "1200.50", 120000 -> "1200".
[[nodiscard]] std::string money(int64_t hundredths);

/// value / 10^digits without zeros at the end: (1250, 2) -> "12.5", (1200, 2) -> "12".
[[nodiscard]] std::string shortest(int64_t value, int digits);

/// Of month 0 to 11: "January"; 31.
[[nodiscard]] std::string month_name(int64_t month);
[[nodiscard]] int64_t days_of_month(int64_t month);

/// "14 March" for a day of a year of 365 days, 0 = 1 January; later days lie in the next year.
[[nodiscard]] std::string date(int64_t day_of_year);

/// How to find the date `days` after a day of the year: (30 September, 90) -> "120 September = 90 October = 59 November
/// = 29 December".
[[nodiscard]] std::string date_steps(int64_t day_of_year, int64_t days);

/// "Monday" for 0; later days lie in the next week.
[[nodiscard]] std::string weekday(int64_t day);

/// Saturday or Sunday.
[[nodiscard]] inline bool is_weekend(int64_t day) { return day % 7 >= 5; }

/// value / divisor, rounded up. Neither is negative.
[[nodiscard]] inline int64_t divide_up(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

}  // namespace tessera::data
