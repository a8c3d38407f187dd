#include <algorithm>
#include <map>

#include "tests/data/tasks/reading.h"
#include "tests/data/tasks/solvers.h"

namespace tessera::data::solvers {
namespace {

std::string route(const std::string& prompt) {
  int64_t time = minutes(text_of(prompt, "(\\d\\d:\\d\\d)"));
  const auto stops = find_all(prompt, "(\\d+) min to [A-Z][a-z]+(?: \\(opens (\\d\\d:\\d\\d)\\))?, unload (\\d+) min");
  if (stops.empty()) return clock(time + number(prompt, "(\\d+) minutes"));
  for (size_t i = 0; i < stops.size(); ++i) {
    if (i == 2) time += number_or(prompt, "break of (\\d+)", 0);
    time += std::stoll(stops[i][1]);
    if (!stops[i][2].empty()) time = std::max(time, minutes(stops[i][2]));
    time += std::stoll(stops[i][3]);
  }
  return clock(time);
}

std::string pallets(const std::string& prompt) {
  const int64_t limit = number_or(prompt, "At most (\\d+) kg", 0);
  int64_t count = 0;
  for (const Groups& article : find_all(
           prompt, "(\\d+) cartons of [a-z ]+?(?: of (\\d+) kg each)?, (\\d+) a (?:pallet|layer, (\\d+) layers)")) {
    int64_t on_one = std::stoll(article[3]) * (article[4].empty() ? 1 : std::stoll(article[4]));
    while (limit > 0 && on_one * std::stoll(article[2]) > limit) --on_one;
    for (int64_t left = std::stoll(article[1]); left > 0; left -= on_one) ++count;
  }
  return std::to_string(count) + (count == 1 ? " pallet" : " pallets");
}

std::string parts(const std::string& prompt) {
  std::map<std::string, std::string> replaced;
  for (const Groups& pair : find_all(prompt, "([A-Z]{2}-\\d+) is replaced by ([A-Z]{2}-\\d+)")) {
    replaced[pair[1]] = pair[2];
  }
  Groups car = find(prompt, "(\\d{4}) ([A-Z][a-z]+)(?: (petrol|diesel|electric))?|car of (\\d{4})");
  const int64_t year = std::stoll(car[1] + car[4]);
  std::vector<std::string> fitting;
  for (const Groups& part :
       find_all(prompt, "([A-Z]{2}-\\d+)(?: for| ([A-Z][a-z]+)(?: (petrol|diesel|electric))?) (\\d{4})-(\\d{4})")) {
    if (part[2] == car[2] && part[3] == car[3] && std::stoll(part[4]) <= year && year <= std::stoll(part[5])) {
      fitting.push_back(part[1]);
    }
  }
  if (fitting.size() != 1) throw std::runtime_error("not one part fits: " + prompt);
  std::string part = fitting[0];
  while (replaced.contains(part)) part = replaced[part];
  return part;
}

}  // namespace

std::string solve_logistics(const std::string& kind, const std::string& prompt) {
  return kind == "route" ? route(prompt) : kind == "pallets" ? pallets(prompt) : parts(prompt);
}

}  // namespace tessera::data::solvers
