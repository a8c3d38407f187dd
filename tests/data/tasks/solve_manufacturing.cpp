#include <algorithm>
#include <map>

#include "tests/data/tasks/reading.h"
#include "tests/data/tasks/solvers.h"

namespace tessera::data::solvers {
namespace {

std::string tolerance(const std::string& prompt) {
  int64_t low = 0, high = 0, slot_low = 0, slot_high = 0;
  for (const Groups& part : find_all(prompt, "([a-z]+) ([\\d.]+) mm \\(\\+([\\d.]+)/-([\\d.]+)\\)")) {
    const int64_t nominal = scaled(part[2], 2), least = nominal - scaled(part[4], 2),
                  most = nominal + scaled(part[3], 2);
    (part[1] == "slot" ? slot_low : low) += least;
    (part[1] == "slot" ? slot_high : high) += most;
  }
  const bool greatest = has(prompt, "greatest");
  const int64_t size = slot_high == 0 ? (greatest ? high : low) : greatest ? slot_high - low : slot_low - high;
  return decimal(static_cast<double>(size) / 100, 2) + " mm";
}

const Table kGroups = {{"BRK", "brake"},
                       {"GER", "gear"},
                       {"PMP", "pump|impeller"},
                       {"VLV", "valve"},
                       {"MTR", "stator|rotor|motor|brushes"},
                       {"FST", "bolts|nuts|rivets|rods"},
                       {"SNS", "sensor"},
                       {"CBL", "wire|cable|plugs"}};

std::string release(const std::string& prompt) {
  std::vector<std::pair<double, std::string>> batches;
  for (const std::string& record : lines_with(prompt, "line \\d")) {
    const double points =
        static_cast<double>(5 * number_or(record, "(\\d+) critical", 0) + number(record, "(\\d+) (?:minor )?defect"));
    const double rate = 100 * points / static_cast<double>(number(record, "sample (?:of )?(\\d+)"));
    batches.emplace_back(-rate, look_up(record, kGroups) + "-" +
                                    (rate < 1.999   ? "R"
                                     : rate < 4.999 ? "W"
                                                    : "B") +
                                    text_of(record, "line (\\d)"));
  }
  std::sort(batches.begin(), batches.end());
  std::vector<std::string> codes;
  for (const auto& [rate, code] : batches) codes.push_back(code);
  return listed(codes);
}

std::string schedule(const std::string& prompt) {
  int64_t time = minutes(text_of(prompt, "(\\d\\d:\\d\\d)"));
  if (has(prompt, "pieces")) {
    return clock(time + number(prompt, "(\\d+) pieces(?! a minute)") / number(prompt, "(\\d+) (?:pieces )?a minute"));
  }
  const std::map<std::string, int64_t> shades = {{"white", 0}, {"yellow", 1}, {"orange", 2},
                                                 {"red", 3},   {"blue", 4},   {"black", 5}};
  std::vector<std::pair<int64_t, int64_t>> jobs;
  for (const Groups& job : find_all(prompt, "(white|yellow|orange|red|blue|black) (\\d+) min")) {
    jobs.emplace_back(shades.at(job[1]), std::stoll(job[2]));
  }
  if (!has(prompt, "in this order")) std::sort(jobs.begin(), jobs.end());
  const int64_t target = shades.at(text_of(prompt, "the (white|yellow|orange|red|blue|black) job"));
  const int64_t change = number(prompt, "changeover takes (\\d+)"), pause = number_or(prompt, "break of (\\d+)", 0);
  for (size_t i = 0;; ++i) {
    if (i > 0) time += has(prompt, "each step") ? change * (jobs[i].first - jobs[i - 1].first) : change;
    if (i == 2) time += pause;
    time += jobs[i].second;
    if (jobs[i].first == target) return clock(time);
  }
}

}  // namespace

std::string solve_manufacturing(const std::string& kind, const std::string& prompt) {
  return kind == "tolerance" ? tolerance(prompt) : kind == "release" ? release(prompt) : schedule(prompt);
}

}  // namespace tessera::data::solvers
