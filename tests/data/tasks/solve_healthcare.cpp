#include <algorithm>
#include <tuple>

#include "tests/data/tasks/reading.h"
#include "tests/data/tasks/solvers.h"

namespace tessera::data::solvers {
namespace {

const Table kDepartments = {{"GAS", "stomach|vomiting|abdominal|diarrhea|nausea|heartburn"},
                            {"CAR", "chest|heart"},
                            {"ORT", "ankle|wrist|knee|shoulder|finger|hip "},
                            {"NEU", "headache|dizziness|numb|migraine|fainting|memory"},
                            {"RES", "breath|cough|wheezing|asthma"},
                            {"DER", "skin|itchy spots|cut|hives|bite"},
                            {"EYE", "vision|\\beye"},
                            {"ENT", "ear pain|throat|nose|hearing|voice"}};

std::string coding(const std::string& prompt) {
  const bool several = has(prompt, "treat(ment|ed)");
  std::vector<std::tuple<int64_t, int64_t, std::string>> arrivals;
  for (const std::string& record : several ? lines_with(prompt, "pain \\d") : std::vector<std::string>{prompt}) {
    const int64_t age = number(record, "[Aa]ge:? (\\d+)|(\\d+) years"), pain = number(record, "[Pp]ain:? (\\d+)");
    int64_t level = 1 + (pain > 3) + (pain > 6);
    if (has(record, "\\d\\d\\.\\d C") && std::stod(text_of(record, "(\\d\\d\\.\\d) C")) > 38.45) ++level;
    level = std::min<int64_t>(level, 3);
    const std::string code = look_up(record, kDepartments) + "-" +
                             (age <= 17   ? "C"
                              : age <= 64 ? "A"
                                          : "S") +
                             std::to_string(level);
    arrivals.emplace_back(-level, -age, code);
  }
  std::sort(arrivals.begin(), arrivals.end());
  std::vector<std::string> codes;
  for (const auto& [level, age, code] : arrivals) codes.push_back(code);
  return listed(codes);
}

std::string infusion(const std::string& prompt) {
  double time = static_cast<double>(minutes(text_of(prompt, "(\\d\\d:\\d\\d)")));
  const auto bags = find_all(prompt, "(\\d+) ml(?: at|, rate) (\\d+) ml");
  for (const Groups& bag : bags) time += 60.0 * std::stod(bag[1]) / std::stod(bag[2]);
  time += static_cast<double>(number_or(prompt, "flush of (\\d+) min", 0)) * static_cast<double>(bags.size() - 1);
  return clock(std::llround(time));
}

std::string dose(const std::string& prompt) {
  const int64_t product =
      number(prompt, "(\\d+) mg per kg") * number(prompt, "(?:[Ww]eight|weighs|patient of) (\\d+) kg");
  int64_t amount = std::min(product, number(prompt, "(?:at most|limit|never above) (\\d+) mg"));
  amount *= number_or(prompt, "(\\d+) doses", 1) * number_or(prompt, "for (\\d+) days", 1);
  if (!has(prompt, "mg per ml")) return std::to_string(amount) + " mg";
  amount /= number(prompt, "(\\d+) mg per ml");
  if (!has(prompt, "bottle")) return std::to_string(amount) + " ml";
  const int64_t size = number(prompt, "bottle (\\d+) ml");
  int64_t bottles = 0;
  while (bottles * size < amount) ++bottles;
  return std::to_string(bottles) + (bottles > 1 ? " bottles" : " bottle");
}

}  // namespace

std::string solve_healthcare(const std::string& kind, const std::string& prompt) {
  return kind == "coding" ? coding(prompt) : kind == "infusion" ? infusion(prompt) : dose(prompt);
}

}  // namespace tessera::data::solvers
