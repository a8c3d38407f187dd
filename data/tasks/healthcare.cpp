#include "data/tasks/healthcare.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/text.h"
#include "data/tasks/draw.h"
#include "data/tasks/format.h"
#include "data/tasks/healthcare_coding.h"

namespace tessera::data {
namespace {

using detail::concat;

// A dose order with a rate per kilogram and a limit.
Problem single_dose(Draw& draw) {
  constexpr std::array<int64_t, 4> kRates = {2, 3, 5, 10};
  const int64_t rate = draw.pick(kRates);
  const int64_t weight = draw.between(4, 40);
  const int64_t product = rate * weight;
  // The limit cuts in about every third order.
  const bool cut = draw.below(3) == 0;
  const int64_t limit = cut ? std::max<int64_t>(product / 20 * 10, 5) : (product / 50 + 1 + draw.below(3)) * 50;
  const int64_t given = std::min(product, limit);

  Problem problem;
  problem.rules = "A dose is weight times rate, but never above the limit. Example: 120 mg.";
  problem.parameters = concat("dose ", rate, ' ', weight, ' ', limit);
  problem.prompt = draw.below(2) == 0 ? concat("Dose order: ", rate, " mg per kg, weight ", weight, " kg, at most ",
                                               limit, " mg. Dose in mg?")
                                      : concat("A patient weighs ", weight, " kg. The order says ", rate,
                                               " mg per kg, limit ", limit, " mg. How many mg are given?");
  problem.working = concat(weight, " x ", rate, " = ", product, "; limit ", limit, "; smaller: ", given);
  problem.answer = concat(given, " mg");
  return problem;
}

// From the single dose to the amount of a day (2), of a course (3), in ml (4), in bottles (5).
Problem dose(Draw& draw, int64_t difficulty) {
  if (difficulty == 1) return single_dose(draw);
  const int64_t rate = draw.between(1, 4) * 10, weight = draw.between(8, 75), product = rate * weight;
  const int64_t limit = draw.below(3) == 0 ? product / 20 * 10 : (product / 50 + 1 + draw.below(3)) * 50;
  const int64_t given = std::min(product, limit), doses = draw.between(2, 5), days = draw.between(3, 14);
  const int64_t strength = draw.pick(std::array<int64_t, 3>{2, 5, 10}),
                bottle = draw.pick(std::array<int64_t, 4>{100, 150, 200, 250});
  const int64_t daily = given * doses, course = daily * days, volume = course / strength;
  const int64_t bottles = divide_up(volume, bottle);
  const int64_t form = draw.below(3);
  std::string facts = form == 0   ? concat("Order: ", rate, " mg per kg a dose, limit ", limit, " mg a dose, ", doses,
                                           " doses a day; weight ", weight, " kg")
                      : form == 1 ? concat("A patient of ", weight, " kg gets ", doses, " doses a day of ", rate,
                                           " mg per kg each, at most ", limit, " mg each")
                                  : concat("Weight ", weight, " kg; ", rate, " mg per kg a dose, never above ", limit,
                                           " mg; ", doses, " doses a day");
  Problem problem;
  problem.rules = "A dose is weight times rate, but never above the limit.";
  problem.parameters = concat("dose ", rate, ' ', weight, ' ', limit, ' ', doses);
  problem.working = concat(weight, " x ", rate, " = ", product, "; limit ", limit, "; smaller: ", given, "; ", given,
                           " x ", doses, " = ", daily);
  if (difficulty >= 3) {
    facts += concat(", for ", days, " days");
    problem.parameters += concat(' ', days);
    problem.working += concat("; ", daily, " x ", days, " = ", course);
  }
  if (difficulty >= 4) {
    facts += concat(". The solution holds ", strength, " mg per ml");
    problem.parameters += concat(' ', strength);
    problem.working += concat("; ", course, " / ", strength, " = ", volume);
  }
  if (difficulty == 5) {
    facts += concat(", a bottle ", bottle, " ml");
    problem.rules += " Bottles are whole.";
    problem.parameters += concat(' ', bottle);
    problem.working += concat(" ml; ", volume, " / ", bottle, " rounded up = ", bottles);
  }
  constexpr std::array<const char*, 4> kQuestions = {". How many mg a day?", ". How many mg in all?",
                                                     ". How many ml in all?", ". How many bottles are needed?"};
  problem.prompt = facts + kQuestions[static_cast<size_t>(difficulty - 2)];
  problem.answer = difficulty == 2   ? concat(daily, " mg")
                   : difficulty == 3 ? concat(course, " mg")
                   : difficulty == 4 ? concat(volume, " ml")
                                     : concat(bottles, bottles == 1 ? " bottle" : " bottles");
  problem.rules += concat(" Example: ", difficulty <= 3 ? "2400 mg." : difficulty == 4 ? "480 ml." : "3 bottles.");
  return problem;
}

// When an infusion ends: volume / rate is a whole number of hours.
Problem infusion_of_hours(Draw& draw) {
  constexpr std::array<int64_t, 2> kRates = {50, 100};
  const int64_t rate = draw.pick(kRates);
  const int64_t hours = draw.between(2, 8);
  const int64_t start = draw.between(6, 15);
  Problem problem;
  problem.rules = "An infusion takes volume / rate hours. Example: 14:00.";
  problem.parameters = concat("infusion ", rate, ' ', hours, ' ', start);
  problem.prompt = draw.below(2) == 0 ? concat("An infusion of ", rate * hours, " ml at ", rate,
                                               " ml per hour starts at ", clock_time(start * 60), ". When does it end?")
                                      : concat("Infusion: ", rate * hours, " ml, rate ", rate, " ml/h, start ",
                                               clock_time(start * 60), ". End time?");
  problem.working =
      concat(rate * hours, " / ", rate, " = ", hours, " hours; ", start, " + ", hours, " = ", start + hours);
  problem.answer = clock_time((start + hours) * 60);
  return problem;
}

// Bags one after the other, in minutes: one (2), two (3), two and three with a flush after each but the last (4, 5).
Problem infusion(Draw& draw, int64_t difficulty) {
  if (difficulty == 1) return infusion_of_hours(draw);
  constexpr std::array<int64_t, 6> kRates = {60,  90,  120,
                                             150, 180, 240};  // ml per hour: ten minutes are a whole number of ml
  const int64_t bags = difficulty == 2 ? 1 : difficulty == 5 ? 3 : 2;
  const int64_t flush = difficulty >= 4 ? draw.between(1, 4) * 5 : 0;
  const int64_t start = draw.between(60, 130) * 5;
  int64_t time = start;
  Problem problem;
  problem.rules =
      "An infusion takes volume / rate hours. Bags follow one another without a pause but for a flush. Example: 14:20.";
  problem.parameters = concat("infusion ", start, ' ', flush);
  problem.working = clock_time(start);
  std::vector<std::string> volumes;
  for (int64_t bag = 0; bag < bags; ++bag) {
    const int64_t rate = draw.pick(kRates), minutes = draw.between(3, 16) * 10, volume = rate * minutes / 60;
    if (bag > 0 && flush > 0) {
      time += flush;
      problem.working += concat("; flush ", flush, " min: ", clock_time(time));
    }
    time += minutes;
    problem.parameters += concat(' ', rate, ' ', volume);
    problem.working += concat("; ", volume, " x 60 / ", rate, " = ", minutes, " min: ", clock_time(time));
    volumes.push_back(concat(volume, " ml at ", rate, " ml/h"));
  }
  const std::string flushes = flush > 0 ? concat(", with a flush of ", flush, " minutes between two bags") : "";
  const std::string list = join(volumes, ", then ");
  switch (draw.below(3)) {
    case 0:
      problem.prompt = concat("Infusion from ", clock_time(start), ": ", list, flushes, ". End time?");
      break;
    case 1:
      problem.prompt =
          concat("A patient gets ", list, flushes, ". Start: ", clock_time(start), ". When does the infusion end?");
      break;
    default:
      problem.prompt = concat("Start ", clock_time(start), "\n", join(volumes, "\n"),
                              bags > 1 ? "\none after the other" : "", flushes, "\nWhen is it over?");
  }
  problem.answer = clock_time(time);
  return problem;
}

}  // namespace

Task healthcare_task() {
  return {
      .name = "healthcare",
      .description =
          "hospital administration: arrival codes by the house's table, dose orders with a limit, ends of infusions",
      .site = 0x48454131,
      .kinds = {{"coding", "exact", 7, arrival_coding},
                {"infusion", "exact", 2, infusion},
                {"dose", "numeric", 1, dose}},
      .ungraded = true};
}

}  // namespace tessera::data
