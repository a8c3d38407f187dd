#include "data/tasks/agriculture.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/text.h"
#include "data/tasks/draw.h"
#include "data/tasks/format.h"

namespace tessera::data {
namespace {

using detail::concat;

struct Family {
  const char* name;
  std::array<const char*, 4> crops;
};

constexpr std::array<Family, 4> kFamilies = {{{"cereals", {"wheat", "barley", "oats", "rye"}},
                                              {"legumes", {"peas", "beans", "lentils", "clover"}},
                                              {"brassicas", {"rapeseed", "cabbage", "mustard", "turnips"}},
                                              {"root crops", {"potatoes", "carrots", "sugar beet", "parsnips"}}}};
constexpr std::array<int64_t, 4> kIndices = {0, 1, 2, 3};
constexpr const char* kFamilyRules =
    "Cereals: wheat, barley, oats, rye; legumes: peas, beans, lentils, clover; brassicas: rapeseed, cabbage, mustard, "
    "turnips; "
    "root crops: potatoes, carrots, sugar beet, parsnips.";

const Family& family(int64_t index) { return kFamilies[static_cast<size_t>(index)]; }

// Seed in kg (1) and in bags (2).
Problem seed(Draw& draw, bool in_bags) {
  constexpr Forms kWeight = {"{0} is sown at {1} kg per ha on {2} ha. How much seed in kg?",
                             "Field of {2} ha, {0}, seed rate {1} kg/ha. Seed in kg?",
                             "How many kg of {0} seed do {2} ha need at {1} kg per ha?"};
  constexpr Forms kBags = {
      "{0} is sown at {1} kg per ha on {2} ha. Seed comes in bags of {3} kg. How many bags are needed?",
      "Field of {2} ha, {0}, seed rate {1} kg/ha, bags of {3} kg. Bags to order?",
      "How many {3} kg bags of {0} seed do {2} ha need at {1} kg per ha?"};
  const char* crop = draw.pick(std::array<const char*, 5>{"wheat", "barley", "rye", "spelt", "triticale"});
  const int64_t rate = draw.between(16, 44) * 5, area = draw.between(3, 60),
                bag = draw.pick(std::array<int64_t, 3>{25, 40, 500});
  const int64_t weight = rate * area, bags = divide_up(weight, bag);
  Problem problem;
  const size_t form = static_cast<size_t>(draw.below(3));
  const std::string name = form == 0 ? concat(static_cast<char>(crop[0] - 'a' + 'A'), crop + 1) : crop;
  problem.prompt = fill_form((in_bags ? kBags : kWeight)[form], name, rate, area, bag);
  problem.parameters = concat("amount ", rate, ' ', area);
  problem.working = concat(rate, " x ", area, " = ", weight);
  problem.answer = concat(weight, " kg");
  problem.rules = "Seed is rate times area. Example: 2160 kg.";
  if (in_bags) {
    problem.parameters += concat(' ', bag);
    problem.working += concat("; ", weight, " / ", bag, " rounded up = ", bags);
    problem.answer = count_of(bags, "bag");
    problem.rules = "Seed is rate times area; bags are whole. Example: 87 bags.";
  }
  return problem;
}

// Seed (1, 2); fertiliser for the nitrogen that soil and legumes do not supply: in kg (3), in bags (4), for two fields
// (5).
Problem amount(Draw& draw, int64_t difficulty) {
  if (difficulty <= 2) return seed(draw, difficulty == 2);
  constexpr Forms kForms = {
      "The crop needs {0} kg of nitrogen per ha; the fertiliser holds {1}%. {2}. {3}",
      "Fertiliser with {1}% nitrogen, target {0} kg of nitrogen per ha. {2}. {3}",
      "{2}. Each ha is to get {0} kg of nitrogen in all, from soil and a fertiliser of {1}%. {3}"};
  constexpr std::array<const char*, 2> kNames = {"North field", "South field"};
  const int64_t need = draw.between(14, 24) * 10, content = draw.pick(std::array<int64_t, 4>{20, 25, 40, 50});
  const int64_t bag = draw.pick(std::array<int64_t, 3>{25, 50, 600});
  Problem problem;
  problem.parameters = concat("amount ", need, ' ', content, ' ', difficulty >= 4 ? bag : 0);
  std::vector<std::string> fields, sums;
  int64_t total = 0;
  for (int64_t i = 0; i < (difficulty == 5 ? 2 : 1); ++i) {
    const int64_t area = draw.between(3, 40), soil = draw.between(2, 7) * 10;
    const bool credit = difficulty >= 4 && draw.below(2) == 0;
    const char* before = draw.pick(family(credit ? 1 : 0).crops);
    const int64_t missing = need - soil - (credit ? 30 : 0), rate = missing * 100 / content;
    total += rate * area;
    const char* name = difficulty == 5 ? kNames[static_cast<size_t>(i)] : "Field";
    problem.parameters += concat(' ', area, ' ', soil, ' ', credit);
    fields.push_back(concat(name, ": ", area, " ha, soil supplies ", soil, " kg per ha"));
    if (difficulty >= 4) fields.back() += concat(", after ", before);
    problem.working += concat(need, " - ", soil, credit ? " - 30" : "", " = ", missing, "; ", missing, " / ",
                              fixed(content, 2), " = ", rate, "; ", rate, " x ", area, " = ", rate * area, "; ");
    sums.push_back(concat(rate * area));
  }
  if (sums.size() > 1) problem.working += concat(join(sums, " + "), " = ", total, "; ");
  problem.rules = "Fertiliser per ha is the nitrogen that is missing divided by the content.";
  std::string question = "How many kg of fertiliser are needed?";
  problem.answer = concat(total, " kg");
  if (difficulty >= 4) {
    problem.rules +=
        " After peas, beans, lentils or clover 30 kg of nitrogen less are needed per ha. Bags are whole. Example: 87 "
        "bags.";
    problem.working += concat(total, " / ", bag, " rounded up = ", divide_up(total, bag));
    question = concat("After a legume, 30 kg less per ha are needed. How many bags of ", bag, " kg are needed",
                      difficulty == 5 ? " in all?" : "?");
    problem.answer = count_of(divide_up(total, bag), "bag");
  } else {
    problem.rules += " Example: 4800 kg.";
    problem.working.resize(problem.working.size() - 2);
  }
  problem.prompt = fill_form(draw.pick(kForms), need, content, join(fields, ". "), question);
  return problem;
}

// The earliest year for a crop, after one crop of its family (1), and with one of another family beside it (2).
Problem earliest_year(Draw& draw, int64_t num_past) {
  constexpr Forms kForms = {
      "Last grown: {0}. {1} must lie between. Earliest year for {2}?",
      "Field record: {0}. Rule: {1} in between. When may {2} be grown again at the earliest?",
      "A field last grew {0}. House rule: {1} in between. In which year can {2} follow at the earliest?"};
  const std::vector<int64_t> chosen = draw.several(kIndices, num_past);
  const int64_t asked = chosen[static_cast<size_t>(draw.below(num_past))];
  const int64_t asked_year = draw.between(2004, 2023), asked_gap = draw.between(1, 7);
  Problem problem;
  problem.parameters = "rotation";
  std::vector<std::string> past, breaks;
  for (const int64_t index : chosen) {
    const bool is_asked = index == asked;
    // The other crop does not lie behind the year that is asked for.
    const int64_t year = is_asked ? asked_year : asked_year + draw.between(-3, asked_gap),
                  gap = is_asked ? asked_gap : draw.between(1, 7);
    const char* crop = draw.pick(family(index).crops);
    past.push_back(concat(crop, " in ", year));
    breaks.push_back(concat(count_of(gap, "year"), " without ", family(index).name));
    problem.parameters += concat(' ', crop, ' ', year, ' ', gap);
  }
  const char* next = draw.pick(family(asked).crops);
  problem.parameters += concat(' ', next);
  const int64_t result = asked_year + asked_gap + 1;
  problem.working = concat(next, ": ", family(asked).name, "; ", asked_year, " + ", asked_gap, " + 1 = ", result);
  problem.answer = concat(result);
  problem.rules =
      concat(kFamilyRules, " A break of 3 years after 2021 ends with 2024, so that 2025 is free. Example: 2025.");
  problem.prompt = fill_form(draw.pick(kForms), join(past), join(breaks, ", "), next);
  return problem;
}

// Years (1, 2); the first crop of a list that its family's break allows: next year (3), two and three years in a row
// (4, 5).
Problem rotation(Draw& draw, int64_t difficulty) {
  if (difficulty <= 2) return earliest_year(draw, difficulty);
  constexpr Forms kForms = {
      "Field history: {0}. Years without a family before it may return: {1}. Choices, best first: {2}. {3}",
      "Grown on a field: {0}. Breaks in years: {1}. {3} Choices in order of preference: {2}.",
      "Breaks between crops of a family: {1} years. Grown so far: {0}. Wanted, most wanted first: {2}. {3}"};
  const int64_t first = draw.between(2012, 2026), num_years = difficulty - 2, num_past = difficulty == 3 ? 3 : 4;
  std::array<int64_t, 4> breaks{};
  std::vector<std::string> past, rules;
  for (size_t i = 0; i < breaks.size(); ++i) {
    breaks[i] = draw.between(1, i == 0 ? 1 : 3);
    rules.push_back(concat(kFamilies[i].name, ' ', breaks[i]));
  }
  std::vector<int64_t> last(4, -100);  // year in which a family was last grown
  for (int64_t year = first - num_past; year < first; ++year) {
    const int64_t index = draw.below(4);
    past.push_back(concat(year, ' ', draw.pick(family(index).crops)));
    last[static_cast<size_t>(index)] = year;
  }
  std::vector<std::pair<int64_t, std::string>> wanted;
  std::vector<std::string> names, plan, steps;
  for (int64_t round = 0; round < (difficulty == 3 ? 1 : 2); ++round) {
    for (const int64_t index : draw.several(kIndices, round == 0 ? 4 : 2)) {
      const std::string crop = draw.pick(family(index).crops);
      if (std::find(names.begin(), names.end(), crop) != names.end()) continue;
      wanted.emplace_back(index, crop);
      names.push_back(crop);
    }
  }
  for (int64_t year = first; year < first + num_years; ++year) {
    const auto free = [&](const auto& crop) {
      return year - last[static_cast<size_t>(crop.first)] > breaks[static_cast<size_t>(crop.first)];
    };
    const auto found = std::find_if(wanted.begin(), wanted.end(), free);
    std::vector<std::string> blocked;
    for (auto crop = wanted.begin(); crop != found; ++crop) {
      blocked.push_back(concat(crop->second, " (", last[static_cast<size_t>(crop->first)], ')'));
    }
    plan.push_back(found == wanted.end() ? "fallow" : found->second);
    steps.push_back(concat(year, ": ", blocked.empty() ? "" : "too soon " + join(blocked) + "; ", plan.back(),
                           found == wanted.end() ? "" : " is free"));
    if (found == wanted.end()) continue;
    last[static_cast<size_t>(found->first)] = year;
    wanted.erase(found);
  }
  Problem problem;
  problem.rules = concat(
      kFamilyRules, " Each year takes the first choice left whose family has had its break, or else fallow. Example: ",
      num_years == 1   ? "oats."
      : num_years == 2 ? "oats, peas."
                       : "oats, peas, carrots.");
  problem.parameters = concat("rotation ", join(past), ' ', join(rules), ' ', join(names), ' ', num_years);
  const std::string question = num_years == 1 ? concat("Which is grown in ", first, " (fallow if none may be)?")
                                              : concat("Plan ", first, " to ", first + num_years - 1,
                                                       " (each crop at most once, fallow if none may be grown).");
  problem.prompt = fill_form(draw.pick(kForms), join(past), join(rules), join(names), question);
  problem.working = join(steps, "; ");
  problem.answer = join(plan);
  return problem;
}

// Water in cubic metres (1), less rain (2), in minutes of a pump (3), its end (4), two fields one after the other (5).
Problem irrigation(Draw& draw, int64_t difficulty) {
  constexpr Forms kWater = {"Irrigate: {0}. How many cubic metres of water?", "{0}. Water needed in cubic metres?",
                            "Plan: {0}. How much water is that, in cubic metres?"};
  constexpr Forms kMinutes = {"Irrigate: {0}. The pump gives {1} cubic metres an hour. How many minutes does it run?",
                              "{0}; pump {1} cubic metres per hour. Running time in minutes?",
                              "Plan: {0}. How many minutes does a pump of {1} cubic metres per hour take?"};
  constexpr Forms kEnd = {
      "Irrigate: {0}. The pump gives {1} cubic metres an hour and starts at {2}{3}. When does it stop?",
      "{0}; pump {1} cubic metres per hour, start {2}{3}. When is the work done?",
      "Start {2}, pump {1} cubic metres per hour{3}. Plan: {0}. End time?"};
  const int64_t pump = draw.pick(std::array<int64_t, 5>{100, 120, 150, 200, 300}), start = draw.between(54, 84) * 5,
                move = draw.between(2, 9) * 5;
  const bool small = difficulty >= 3;  // so that the pump is done on the same day
  Problem problem;
  problem.parameters = concat("irrigation ", difficulty >= 3 ? pump : 0, ' ', difficulty >= 4 ? start : 0, ' ',
                              difficulty == 5 ? move : 0);
  std::vector<std::string> fields, steps;
  int64_t time = start, volume = 0, minutes = 0;
  for (int64_t i = 0; i < (difficulty == 5 ? 2 : 1); ++i) {
    const int64_t area = draw.between(2, small ? 7 : 40), net = draw.between(4, small ? 12 : 30),
                  rain = difficulty >= 2 ? draw.between(2, 15) : 0;
    volume = area * net * 10;
    minutes = volume * 60 / pump;
    problem.parameters += concat(' ', area, ' ', net + rain, ' ', rain);
    fields.push_back(concat(area, " ha with ", net + rain, " mm"));
    if (rain > 0) {
      fields.back() += concat(" less ", rain, " mm of rain");
      steps.push_back(concat(net + rain, " - ", rain, " = ", net));
    }
    steps.push_back(concat(area, " x ", net, " x 10 = ", volume));
    if (difficulty >= 3) steps.push_back(concat(volume, " x 60 / ", pump, " = ", minutes, " min"));
    if (i > 0) steps.push_back(concat("move: ", clock_time(time += move)));
    if (difficulty >= 4) steps.push_back(concat("until ", clock_time(time += minutes)));
  }
  problem.rules = concat("1 mm on 1 ha is 10 cubic metres. Example: ", difficulty <= 2   ? "2400 m3."
                                                                       : difficulty == 3 ? "150 minutes."
                                                                                         : "14:25.");
  const std::string between = difficulty == 5 ? concat(", with ", move, " minutes between the fields") : "";
  problem.prompt = fill_form(draw.pick(difficulty <= 2   ? kWater
                                       : difficulty == 3 ? kMinutes
                                                         : kEnd),
                             join(fields, ", then "), pump, clock_time(start), between);
  problem.working = join(steps, "; ");
  problem.answer = difficulty <= 2   ? concat(volume, " m3")
                   : difficulty == 3 ? concat(minutes, " minutes")
                                     : clock_time(time);
  return problem;
}

}  // namespace

Task agriculture_task() {
  return {
      .name = "agriculture",
      .description = "farm planning: seed and fertiliser for a field, crop rotation by the house's breaks, irrigation",
      .site = 0x41475231,
      .kinds = {{"amount", "numeric", 1, amount},
                {"rotation", "exact", 1, rotation},
                {"irrigation", "exact", 1, irrigation}}};
}

}  // namespace tessera::data
