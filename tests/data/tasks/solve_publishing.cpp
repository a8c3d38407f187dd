#include <algorithm>

#include "tests/data/tasks/reading.h"
#include "tests/data/tasks/solvers.h"

namespace tessera::data::solvers {
namespace {

int64_t rounded_up(int64_t value, int64_t divisor) { return value / divisor + (value % divisor > 0 ? 1 : 0); }

std::string counted(int64_t count, const std::string& thing) {
  return std::to_string(count) + " " + thing + (count == 1 ? "" : "s");
}

std::string pages(const std::string& prompt) {
  const int64_t front = number_or(prompt, "(\\d+) pages of front matter", 0);
  if (has(prompt, "words a page")) {
    const int64_t sum =
        front + rounded_up(number(prompt, "(\\d+) words(?! a page)"), number(prompt, "(\\d+) words a page"));
    if (!has(prompt, "signatures")) return counted(sum, "page");
    return counted(rounded_up(sum, number(prompt, "signatures of (\\d+)")), "signature");
  }
  int64_t page = front;  // the last one used
  for (const Groups& length : find_all(text_of(prompt, "((?:\\d+, )+\\d+)"), "\\d+")) {
    if ((page + 1) % 2 == 0) ++page;
    page += std::stoll(length[0]);
  }
  if (has(prompt, "last chapter end")) return "page " + std::to_string(page);
  while (page % number(prompt, "sheets hold (\\d+)") != 0) ++page;
  return std::to_string(page) + " pages";
}

std::string deadline(const std::string& prompt) {
  const int64_t words = number(prompt, "(\\d+) words(?! a day)");
  int64_t left = 0;
  for (const Groups& speed : find_all(prompt, "(\\d+) words a day")) left += rounded_up(words, std::stoll(speed[1]));
  if (has(prompt, "How many days")) return counted(left, "day");
  const auto dates = find_all(prompt, kDate);
  Calendar day = Calendar::read(dates[0]);
  const bool weekdays = has(prompt, "Monday to Friday only");
  if (weekdays) day.weekday = index_of(kDayNames, text_of(prompt, kWeekday + " \\d"));
  for (;; day.step()) {
    const bool off = (weekdays && day.weekday > 4) || (dates.size() > 1 && day.same_date(Calendar::read(dates[1])));
    if (!off && --left == 0) return day.text();
  }
}

std::string style(const std::string& prompt) {
  const std::vector<std::string> words = {"two",   "three", "four", "five",   "six",   "seven",
                                          "eight", "nine",  "ten",  "eleven", "twelve"};
  std::string text = text_of(prompt, ": ([^]*)$");
  for (const Groups& time : find_all(text, "(\\d+):(\\d\\d) (am|pm)")) {
    text.replace(text.find(time[0]), time[0].size(),
                 clock((std::stoll(time[1]) + (time[3] == "pm" ? 12 : 0)) * 60 + std::stoll(time[2])));
  }
  text = std::regex_replace(text, compiled("([A-Z][a-z]+) (\\d+), (\\d{4})"), "$2 $1 $3");
  text = std::regex_replace(text, compiled("(\\d+)%"), "$1 per cent");
  text = std::regex_replace(text, compiled("([a-z]+)ized\\b"), "$1ised");
  for (size_t i = 0; i < words.size(); ++i) {
    text = std::regex_replace(
        text,
        compiled("\\b" + std::to_string(i + 2) + "(?= (essays|stories|maps|photos|tables|prizes|reviews|letters))"),
        words[i]);
  }
  return text;
}

}  // namespace

std::string solve_publishing(const std::string& kind, const std::string& prompt) {
  return kind == "pages" ? pages(prompt) : kind == "deadline" ? deadline(prompt) : style(prompt);
}

std::string solve(const std::string& task, const std::string& kind, const std::string& prompt) {
  if (task == "healthcare") return solve_healthcare(kind, prompt);
  if (task == "finance") return solve_finance(kind, prompt);
  if (task == "manufacturing") return solve_manufacturing(kind, prompt);
  if (task == "agriculture") return solve_agriculture(kind, prompt);
  if (task == "education") return solve_education(kind, prompt);
  if (task == "security") return solve_security(kind, prompt);
  if (task == "logistics") return solve_logistics(kind, prompt);
  return solve_publishing(kind, prompt);
}

}  // namespace tessera::data::solvers
