#include "data/tasks/logistics.h"

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

constexpr std::array<const char*, 12> kPlaces = {"Arden", "Bexley", "Corby",  "Dover",  "Esher", "Frome",
                                                 "Goole", "Hythe",  "Ilford", "Kendal", "Luton", "Maldon"};

// A drive (1), on from a stop (2), stops that open at a time (3: two, 4: three, 5: four with a break after the second).
Problem route(Draw& draw, int64_t difficulty) {
  constexpr Forms kDrive = {"A truck leaves at {0} and drives {1} minutes to {2}. When does it arrive?",
                            "Departure {0}, driving time {1} minutes to {2}. Arrival?",
                            "When is a truck in {2} that starts at {0} and needs {1} minutes?"};
  constexpr Forms kRoute = {"A truck leaves at {0}: {1}.{2} When does it leave {3}?",
                            "Departure {0}. Route: {1}.{2} When is the truck done in {3}?",
                            "Route from {0}: {1}.{2} At what time is {3} unloaded?"};
  const int64_t start = draw.between(60, 108) * 5, num_stops = std::max<int64_t>(difficulty - 1, 1);
  const int64_t pause = difficulty == 5 ? draw.between(4, 9) * 5 : 0;
  Problem problem;
  problem.parameters = concat("route ", start, ' ', pause);
  std::vector<std::string> stops, steps;
  int64_t time = start;
  const std::vector<const char*> places = draw.several(kPlaces, num_stops);
  if (difficulty == 1) {
    const int64_t drive = draw.between(35, 290);
    problem.rules = "Arrival is departure plus driving time. Example: 09:50.";
    problem.parameters += concat(' ', drive);
    problem.prompt = fill_form(draw.pick(kDrive), clock_time(start), drive, places[0]);
    problem.working = concat(clock_time(start), " + ", drive, " min = ", clock_time(start + drive));
    problem.answer = clock_time(start + drive);
    return problem;
  }
  for (const char* place : places) {
    const int64_t drive = draw.between(4, 20) * 5, unload = draw.between(2, 9) * 5;
    if (stops.size() == 2 && pause > 0) steps.push_back("break until " + clock_time(time += pause));
    time += drive;
    steps.push_back(concat(place, ' ', clock_time(time)));
    // Opens after the arrival at every other stop or so.
    const int64_t opens = difficulty >= 3 ? std::max<int64_t>((time + draw.between(-11, 8) * 5) / 5 * 5, 0) : 0;
    if (opens > time) steps.push_back("waits until " + clock_time(time = opens));
    steps.push_back(concat("leaves ", clock_time(time += unload)));
    problem.parameters += concat(' ', drive, ' ', opens, ' ', unload);
    stops.push_back(concat(drive, " min to ", place, difficulty >= 3 ? concat(" (opens ", clock_time(opens), ')') : "",
                           ", unload ", unload, " min"));
  }
  problem.rules = concat("A truck that comes before a stop opens waits.",
                         pause > 0 ? " The break follows the unloading." : "", " Example: 09:50.");
  const std::string rest =
      pause > 0 ? concat(" After the second stop the driver takes a break of ", pause, " minutes.") : "";
  problem.prompt = fill_form(draw.pick(kRoute), clock_time(start), join(stops, "; "), rest, places.back());
  problem.working = join(steps, "; ");
  problem.answer = clock_time(time);
  return problem;
}

// Cartons a pallet (1), in layers (2), with a weight limit (3); two and three articles, each on pallets of its own (4,
// 5).
Problem pallets(Draw& draw, int64_t difficulty) {
  constexpr Forms kForms = {"{0}.{1} How many pallets are needed?", "Shipment: {0}.{1} Number of pallets?",
                            "How many pallets does this take? {0}.{1}"};
  constexpr std::array<const char*, 10> kArticles = {"brake pads", "oil filters", "wipers", "spark plugs", "mirrors",
                                                     "bulbs",      "mats",        "hoses",  "batteries",   "tyres"};
  const bool layers = difficulty >= 2, limited = difficulty >= 3;
  const int64_t limit = limited ? draw.between(8, 20) * 50 : 0;
  Problem problem;
  problem.parameters = concat("pallets ", limit);
  std::vector<std::string> list, steps, sums;
  int64_t total = 0;
  for (const char* article : draw.several(kArticles, std::max<int64_t>(difficulty - 2, 1))) {
    const int64_t per_layer = draw.between(4, 12), num_layers = draw.between(3, 7);
    const int64_t weight = limited ? draw.between(6, 30) : 0;
    const int64_t fits = layers ? per_layer * num_layers : draw.between(12, 72);
    const int64_t capacity = limited ? std::min(fits, limit / weight) : fits;
    const int64_t cartons = capacity * draw.between(2, 30) + draw.below(capacity),
                  needed = divide_up(cartons, capacity);
    total += needed;
    sums.push_back(concat(needed));
    if (layers) steps.push_back(concat(per_layer, " x ", num_layers, " = ", fits));
    if (limited) {
      steps.push_back(
          concat("by weight ", limit, " / ", weight, " rounded down = ", limit / weight, "; smaller: ", capacity));
    }
    steps.push_back(concat(cartons, " / ", capacity, " rounded up = ", needed));
    problem.parameters +=
        layers ? concat(' ', cartons, ' ', per_layer, ' ', num_layers, ' ', weight) : concat(' ', cartons, ' ', fits);
    list.push_back(
        concat(cartons, " cartons of ", article, limited ? concat(" of ", weight, " kg each") : "", ", ",
               layers ? concat(per_layer, " a layer, ", num_layers, " layers a pallet") : concat(fits, " a pallet")));
  }
  if (list.size() > 1) steps.push_back(concat(join(sums, " + "), " = ", total));
  problem.rules = concat("Pallets are whole, also the last.",
                         limited ? " The weight limit may leave a pallet fewer cartons than its layers." : "",
                         list.size() > 1 ? " Articles do not share pallets." : "", " Example: 12 pallets.");
  const std::string rule =
      limited ? concat(" At most ", limit, " kg a pallet", list.size() > 1 ? ", one article a pallet." : ".") : "";
  problem.prompt = fill_form(draw.pick(kForms), join(list, "; "), rule);
  problem.working = join(steps, "; ");
  problem.answer = count_of(total, "pallet");
  return problem;
}

struct Part {
  int64_t model;
  int64_t from;
  int64_t to;
  int64_t engine;
};

constexpr std::array<const char*, 6> kModels = {"Asta", "Brio", "Corvo", "Delmar", "Elan", "Fora"};
constexpr std::array<const char*, 3> kEngines = {"petrol", "diesel", "electric"};

// By year (1), model (2), engine (3), with a replaced number (4), with a replacement that was replaced (5).
Problem parts(Draw& draw, int64_t difficulty) {
  constexpr Forms kForms = {"{0}. Which part fits a {1}?", "Catalogue: {0}. Part for a {1}?",
                            "A {1} needs a part. Which one? {0}."};
  constexpr std::array<const char*, 6> kNames = {"BP", "OF", "WB", "SP", "AF", "TB"};
  const std::string prefix = draw.pick(kNames);
  const bool engines = difficulty >= 3;
  const int64_t num_parts = std::array<int64_t, 5>{2, 3, 4, 5, 6}[static_cast<size_t>(difficulty - 1)];
  const Part fitting = {draw.below(6), draw.between(2004, 2019), 0, draw.below(3)};
  const int64_t year = fitting.from + draw.below(5), place = draw.below(num_parts);
  std::vector<Part> all;
  for (int64_t i = 0; i < num_parts; ++i) {
    Part part = {fitting.model, fitting.from, fitting.from + 4 + draw.below(3), fitting.engine};
    if (i != place) {
      // Differs in one of the columns that are shown.
      const int64_t column = draw.below(difficulty == 1 ? 1 : engines ? 3 : 2);
      if (column == 0) part.from = draw.below(2) == 0 ? year + draw.between(1, 4) : year - draw.between(6, 9);
      if (column == 0) part.to = part.from < year ? year - draw.between(1, 2) : part.from + draw.between(2, 5);
      if (column == 1) part.model = (part.model + draw.between(1, 5)) % 6;
      if (column == 2) part.engine = (part.engine + draw.between(1, 2)) % 3;
    }
    all.push_back(part);
  }
  // All numbers that occur, each once: those of the catalog, then the replacements.
  std::vector<int64_t> numbers;
  for (int64_t i = 0; i < num_parts + std::max<int64_t>(difficulty - 3, 0); ++i) {
    int64_t number = draw.between(100, 899);
    while (std::find(numbers.begin(), numbers.end(), number) != numbers.end()) ++number;
    numbers.push_back(number);
  }
  const auto id = [&](int64_t number) { return concat(prefix, '-', number); };
  Problem problem;
  std::vector<std::string> list, steps;
  for (size_t i = 0; i < all.size(); ++i) {
    const Part& part = all[i];
    std::string text = id(numbers[i]);
    if (difficulty >= 2) text += concat(' ', kModels[static_cast<size_t>(part.model)]);
    if (engines) text += concat(' ', kEngines[static_cast<size_t>(part.engine)]);
    list.push_back(concat(text, difficulty == 1 ? " for " : " ", part.from, '-', part.to));
    steps.push_back(concat(id(numbers[i]), part.model != fitting.model     ? " is for another model"
                                           : part.engine != fitting.engine ? " is for another engine"
                                           : part.to < year                ? " ends too early"
                                           : part.from > year              ? " starts too late"
                                                                           : " fits"));
  }
  int64_t number = numbers[static_cast<size_t>(place)];
  for (size_t i = all.size(); i < numbers.size(); ++i) {
    list.push_back(concat(id(number), " is replaced by ", id(numbers[i])));
    steps.push_back(concat("replaced by ", id(numbers[i])));
    number = numbers[i];
  }
  std::string car =
      difficulty == 1 ? concat("car of ", year) : concat(year, ' ', kModels[static_cast<size_t>(fitting.model)]);
  if (engines) car += concat(' ', kEngines[static_cast<size_t>(fitting.engine)]);
  problem.rules =
      "A part fits when model, engine and year do, the last year included; a replaced part is no longer sold. Example: "
      "BP-310.";
  problem.parameters = concat("parts ", join(list), ' ', car);
  problem.prompt = fill_form(draw.pick(kForms), join(list, "; "), car);
  problem.working = join(steps, "; ");
  problem.answer = id(number);
  return problem;
}

}  // namespace

Task logistics_task() {
  return {
      .name = "logistics",
      .description = "freight and spare parts: arrival times on a route, pallets of a shipment, parts that fit a car",
      .site = 0x4c4f4731,
      .kinds = {{"route", "exact", 1, route}, {"pallets", "numeric", 1, pallets}, {"parts", "choice", 1, parts}}};
}

}  // namespace tessera::data
