// How the solvers of solvers.h read prompts and write answers. Shares nothing with data/tasks/, which it checks.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <map>
#include <regex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace tessera::data::solvers {

using Groups = std::vector<std::string>;  // of a match: the whole, then the groups

/// Compiled once.
inline const std::regex& compiled(const std::string& pattern) {
  static std::map<std::string, std::regex> all;
  return all.try_emplace(pattern, pattern).first->second;
}

inline std::vector<Groups> find_all(const std::string& text, const std::string& pattern) {
  const std::regex& regex = compiled(pattern);
  std::vector<Groups> found;
  for (std::sregex_iterator i(text.begin(), text.end(), regex), end; i != end; ++i) {
    Groups groups;
    for (const auto& group : *i) groups.push_back(group.str());
    found.push_back(groups);
  }
  return found;
}

inline bool has(const std::string& text, const std::string& pattern) {
  return std::regex_search(text, compiled(pattern));
}

/// Throws if there is no match.
inline Groups find(const std::string& text, const std::string& pattern) {
  const auto found = find_all(text, pattern);
  if (found.empty()) throw std::runtime_error("no '" + pattern + "' in: " + text);
  return found.front();
}

/// The first group that matched.
inline std::string text_of(const std::string& text, const std::string& pattern) {
  const Groups groups = find(text, pattern);
  for (size_t i = 1; i < groups.size(); ++i) {
    if (!groups[i].empty()) return groups[i];
  }
  return "";
}

inline int64_t number(const std::string& text, const std::string& pattern) {
  return std::stoll(text_of(text, pattern));
}
inline int64_t number_or(const std::string& text, const std::string& pattern, int64_t otherwise) {
  return has(text, pattern) ? number(text, pattern) : otherwise;
}

/// "12.50" in units of 10^-digits.
inline int64_t scaled(const std::string& text, int digits) {
  return std::llround(std::stod(text) * std::pow(10, digits));
}
inline std::string decimal(double value, int digits) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.*f", digits, value);
  return buffer;
}
inline std::string shortened(double value) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.10g", value);
  return buffer;
}

inline int64_t minutes(const std::string& clock) {
  return std::stoll(clock.substr(0, 2)) * 60 + std::stoll(clock.substr(3, 2));
}
inline std::string clock(int64_t minutes) {
  char buffer[48];
  std::snprintf(buffer, sizeof buffer, "%02d:%02d", static_cast<int>(minutes / 60), static_cast<int>(minutes % 60));
  return buffer;
}

/// The code of the first row one of whose patterns occurs.
using Table = std::vector<std::pair<std::string, std::string>>;
inline std::string look_up(const std::string& text, const Table& table) {
  for (const auto& [code, pattern] : table) {
    if (has(text, pattern)) return code;
  }
  throw std::runtime_error("in no row: " + text);
}

inline std::vector<std::string> lines_with(const std::string& text, const std::string& pattern) {
  std::vector<std::string> lines;
  for (const Groups& line : find_all(text, "[^\n]+")) {
    if (has(line[0], pattern)) lines.push_back(line[0]);
  }
  return lines;
}

inline std::string listed(const std::vector<std::string>& items) {
  std::string text;
  for (const auto& item : items) text += (text.empty() ? "" : ", ") + item;
  return text;
}

inline const std::array<const char*, 12> kMonthNames = {"January",   "February", "March",    "April",
                                                        "May",       "June",     "July",     "August",
                                                        "September", "October",  "November", "December"};
inline const std::array<const char*, 7> kDayNames = {"Monday", "Tuesday",  "Wednesday", "Thursday",
                                                     "Friday", "Saturday", "Sunday"};
inline const std::string kDate =
    "(\\d+) (January|February|March|April|May|June|July|August|September|October|November|December)";
inline const std::string kWeekday = "(Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)";

template <size_t N>
int index_of(const std::array<const char*, N>& names, const std::string& name) {
  for (size_t i = 0; i < N; ++i) {
    if (names[i] == name) return static_cast<int>(i);
  }
  throw std::runtime_error("unknown: " + name);
}

/// A calendar that goes day by day.
struct Calendar {
  int month = 0;
  int day = 1;
  int weekday = 0;

  static Calendar read(const Groups& date) { return {index_of(kMonthNames, date[2]), std::stoi(date[1]), 0}; }
  void step() {
    static constexpr std::array<int, 12> kDays = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    weekday = (weekday + 1) % 7;
    if (++day > kDays[static_cast<size_t>(month)]) {
      day = 1;
      month = (month + 1) % 12;
    }
  }
  void step(int64_t days) {
    while (days-- > 0) step();
  }
  void to_workday() {
    while (weekday > 4) step();
  }
  [[nodiscard]] bool same_date(const Calendar& other) const { return month == other.month && day == other.day; }
  [[nodiscard]] std::string text() const { return std::to_string(day) + " " + kMonthNames[static_cast<size_t>(month)]; }
};

}  // namespace tessera::data::solvers
