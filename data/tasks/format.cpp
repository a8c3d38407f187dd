#include "data/tasks/format.h"

#include <array>

#include "core/error.h"

namespace tessera::data {
namespace {

struct Month {
  const char* name;
  int64_t days;
};

constexpr std::array<Month, 12> kMonths = {{{"January", 31},
                                            {"February", 28},
                                            {"March", 31},
                                            {"April", 30},
                                            {"May", 31},
                                            {"June", 30},
                                            {"July", 31},
                                            {"August", 31},
                                            {"September", 30},
                                            {"October", 31},
                                            {"November", 30},
                                            {"December", 31}}};

std::string two_digits(int64_t value) {
  return {static_cast<char>('0' + value / 10), static_cast<char>('0' + value % 10)};
}

}  // namespace

std::string fill_places(std::string_view pattern, const std::vector<std::string>& values) {
  std::string text;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] == '{') {
      text += values.at(static_cast<size_t>(pattern[i + 1] - '0'));
      i += 2;
    } else {
      text += pattern[i];
    }
  }
  return text;
}

std::string count_of(int64_t count, std::string_view thing) {
  return detail::concat(count, ' ', thing, count == 1 ? "" : "s");
}

std::string clock_time(int64_t minutes) {
  TESSERA_CHECK(minutes >= 0 && minutes < 24 * 60, "no time of a day: ", minutes, " minutes");
  return two_digits(minutes / 60) + ":" + two_digits(minutes % 60);
}

std::string fixed(int64_t value, int digits) {
  std::string text = std::to_string(value);
  const auto wanted = static_cast<size_t>(digits);
  if (text.size() <= wanted) text.insert(0, wanted + 1 - text.size(), '0');
  return wanted == 0 ? text : text.insert(text.size() - wanted, 1, '.');
}

std::string money(int64_t hundredths) {
  return hundredths % 100 == 0 ? std::to_string(hundredths / 100) : fixed(hundredths, 2);
}

std::string shortest(int64_t value, int digits) {
  std::string text = fixed(value, digits);
  if (digits == 0) return text;
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

std::string month_name(int64_t month) { return kMonths[static_cast<size_t>(month)].name; }

int64_t days_of_month(int64_t month) { return kMonths[static_cast<size_t>(month)].days; }

std::string date(int64_t day_of_year) {
  int64_t day = day_of_year % 365;
  for (const Month& month : kMonths) {
    if (day < month.days) return detail::concat(day + 1, ' ', month.name);
    day -= month.days;
  }
  TESSERA_CHECK(false, "no day of a year: ", day_of_year);
  return {};
}

std::string date_steps(int64_t day_of_year, int64_t days) {
  int64_t month = 0, day = day_of_year % 365;
  while (day >= days_of_month(month)) day -= days_of_month(month++);
  day += days;
  std::string text = detail::concat(day + 1, ' ', month_name(month));
  while (day >= days_of_month(month)) {
    day -= days_of_month(month);
    month = (month + 1) % 12;
    text += detail::concat(" = ", day + 1, ' ', month_name(month));
  }
  return text;
}

std::string weekday(int64_t day) {
  constexpr std::array<const char*, 7> kNames = {"Monday", "Tuesday",  "Wednesday", "Thursday",
                                                 "Friday", "Saturday", "Sunday"};
  return kNames[static_cast<size_t>(day % 7)];
}

}  // namespace tessera::data
