#include <map>

#include "tests/data/tasks/reading.h"
#include "tests/data/tasks/solvers.h"

namespace tessera::data::solvers {
namespace {

const Table kFamilies = {{"cereals", "^(wheat|barley|oats|rye)$"},
                         {"legumes", "^(peas|beans|lentils|clover)$"},
                         {"brassicas", "^(rapeseed|cabbage|mustard|turnips)$"},
                         {"root crops", "^(potatoes|carrots|sugar beet|parsnips)$"}};
const std::string kCrop =
    "(wheat|barley|oats|rye|peas|beans|lentils|clover|rapeseed|cabbage|mustard|turnips|potatoes|carrots|sugar "
    "beet|parsnips)";

int64_t rounded_up(double value) { return static_cast<int64_t>(std::ceil(value - 1e-9)); }

std::string bags(double weight, const std::string& prompt) {
  const int64_t count = rounded_up(weight / static_cast<double>(number(prompt, "bags of (\\d+) kg|(\\d+) kg bags")));
  return std::to_string(count) + (count == 1 ? " bag" : " bags");
}

std::string amount(const std::string& prompt) {
  double weight = 0;
  if (!has(prompt, "nitrogen")) {
    weight = static_cast<double>(number(prompt, "(\\d+) kg(?: per |/)ha") * number(prompt, "(\\d+) ha"));
  } else {
    const double content = static_cast<double>(number(prompt, "(\\d+)%")) / 100;
    for (const Groups& field :
         find_all(prompt, "(\\d+) ha, soil supplies (\\d+) kg per ha(, after (?:peas|beans|lentils|clover))?")) {
      const int64_t missing =
          number(prompt, "(\\d+) kg of nitrogen") - std::stoll(field[2]) - (field[3].empty() ? 0 : 30);
      weight += static_cast<double>(missing) / content * std::stod(field[1]);
    }
  }
  return has(prompt, "[Bb]ags") ? bags(weight, prompt) : shortened(weight) + " kg";
}

std::string earliest_year(const std::string& prompt) {
  const std::string wanted = look_up(text_of(prompt, "(?:Earliest year for|When may|year can) " + kCrop), kFamilies);
  for (const Groups& past : find_all(prompt, kCrop + " in (\\d{4})")) {
    if (look_up(past[1], kFamilies) == wanted) {
      return std::to_string(std::stoll(past[2]) + 1 + number(prompt, "(\\d+) years? without " + wanted));
    }
  }
  throw std::runtime_error("never grown: " + prompt);
}

std::string rotation(const std::string& prompt) {
  if (has(prompt, "without (cereals|legumes|brassicas|root)")) return earliest_year(prompt);
  std::map<int64_t, std::string> grown;  // family by year
  for (const Groups& past : find_all(prompt, "(\\d{4}) " + kCrop)) {
    grown[std::stoll(past[1])] = look_up(past[2], kFamilies);
  }
  std::vector<std::string> wanted, plan;
  for (const Groups& crop : find_all(text_of(prompt, "(?:best first|preference|most wanted first): ([^.]*)\\."), kCrop)) {
    wanted.push_back(crop[1]);
  }
  const int64_t first = number(prompt, "grown in (\\d{4})|Plan (\\d{4})"),
                last = number_or(prompt, "Plan \\d{4} to (\\d{4})", first);
  for (int64_t year = first; year <= last; ++year) {
    plan.push_back("fallow");
    for (size_t i = 0; i < wanted.size(); ++i) {
      const std::string family = look_up(wanted[i], kFamilies);
      bool free = true;
      for (int64_t back = 1; back <= number(prompt, family + " (\\d)"); ++back) {
        free = free && (!grown.contains(year - back) || grown[year - back] != family);
      }
      if (!free) continue;
      plan.back() = wanted[i];
      grown[year] = family;
      wanted.erase(wanted.begin() + static_cast<std::ptrdiff_t>(i));
      break;
    }
  }
  return listed(plan);
}

std::string irrigation(const std::string& prompt) {
  double volume = 0;
  const auto fields = find_all(prompt, "(\\d+) ha with (\\d+) mm(?: less (\\d+) mm)?");
  for (const Groups& field : fields) {
    volume += std::stod(field[1]) * 10 * (std::stod(field[2]) - (field[3].empty() ? 0 : std::stod(field[3])));
  }
  if (!has(prompt, "pump")) return shortened(volume) + " m3";
  const double running = 60 * volume / static_cast<double>(number(prompt, "(\\d+) cubic metres (?:an|per) hour"));
  if (!has(prompt, "\\d\\d:\\d\\d")) return shortened(running) + " minutes";
  const int64_t moving = number_or(prompt, "with (\\d+) minutes between", 0) * static_cast<int64_t>(fields.size() - 1);
  return clock(minutes(text_of(prompt, "(\\d\\d:\\d\\d)")) + moving + std::llround(running));
}

}  // namespace

std::string solve_agriculture(const std::string& kind, const std::string& prompt) {
  return kind == "amount" ? amount(prompt) : kind == "rotation" ? rotation(prompt) : irrigation(prompt);
}

}  // namespace tessera::data::solvers
