#include "data/tasks/manufacturing.h"

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

// In hundredths of a millimetre.
struct Dimension {
  const char* part;
  int64_t nominal;
  int64_t plus;
  int64_t minus;

  [[nodiscard]] std::string text() const {
    return concat(part, ' ', fixed(nominal, 2), " mm (+", fixed(plus, 2), "/-", fixed(minus, 2), ')');
  }
  [[nodiscard]] int64_t limit(bool greatest) const { return greatest ? nominal + plus : nominal - minus; }
  [[nodiscard]] std::string steps(bool greatest) const {
    return concat(fixed(nominal, 2), greatest ? " + " : " - ", fixed(greatest ? plus : minus, 2), " = ",
                  fixed(limit(greatest), 2));
  }
};

// One part (1), two and three end to end (2, 3), the gap that two and four leave in a slot (4, 5).
Problem tolerance(Draw& draw, int64_t difficulty) {
  constexpr std::array<const char*, 10> kParts = {"shaft",  "spacer", "bushing", "washer", "bearing",
                                                  "collar", "flange", "gear",    "sleeve", "ring"};
  constexpr Forms kOne = {"Drawing: {0}. What is the {1} size allowed, in mm?",
                          "What is the {1} size in mm of a {0} within its tolerance?",
                          "Inspection of a {0}: which size in mm is the {1} that passes?"};
  constexpr Forms kChain = {"Stacked end to end: {0}. What is the {1} total length in mm?",
                            "Tolerance chain: {0}. What is the {1} sum, in mm?",
                            "These parts make up an assembly: {0}. How long is it at its {1}, in mm?"};
  constexpr Forms kGap = {"Side by side in a {2}: {0}. What is the {1} gap in mm?",
                          "Tolerance chain: {2}, less {0}. What is the {1} gap, in mm?",
                          "A {2} takes these parts in a row: {0}. How wide is the gap at its {1}, in mm?"};
  const bool gap = difficulty >= 4, greatest = draw.below(2) == 0;
  const int64_t num_parts = difficulty <= 3 ? difficulty : difficulty == 4 ? 2 : 4;
  Problem problem;
  problem.rules =
      concat("+0.10/-0.05 means that a size may be 0.10 mm above or 0.05 mm below the nominal one.",
             gap ? " The greatest gap is the greatest slot less the smallest parts, the smallest gap the reverse." : "",
             " Example: 20.85 mm.");
  problem.parameters = concat("tolerance ", greatest);
  std::vector<std::string> texts, steps, limits;
  int64_t sum = 0, nominal = 0;
  const auto draw_dimension = [&](const char* part, int64_t size) {
    const Dimension drawn = {part, size, draw.between(1, 20), draw.between(1, 20)};
    problem.parameters += concat(' ', drawn.nominal, ' ', drawn.plus, ' ', drawn.minus);
    return drawn;
  };
  for (const char* part : draw.several(kParts, num_parts)) {
    const Dimension dimension = draw_dimension(part, draw.between(200, 6000));
    const bool bound = greatest != gap;
    texts.push_back(dimension.text());
    steps.push_back(dimension.steps(bound));
    limits.push_back(fixed(dimension.limit(bound), 2));
    sum += dimension.limit(bound);
    nominal += dimension.nominal;
  }
  if (num_parts > 1) steps.push_back(concat(join(limits, " + "), " = ", fixed(sum, 2)));
  int64_t result = sum;
  std::string slot_text;
  if (gap) {
    const Dimension slot =
        draw_dimension("slot", nominal + draw.between(110, 400));  // wider than the parts at their widest
    result = slot.limit(greatest) - sum;
    slot_text = slot.text();
    steps.push_back(concat("slot ", slot.steps(greatest)));
    steps.push_back(concat(fixed(slot.limit(greatest), 2), " - ", fixed(sum, 2), " = ", fixed(result, 2)));
  }
  const char* form = draw.pick(gap ? kGap : num_parts > 1 ? kChain : kOne);
  problem.prompt = fill_form(form, join(texts), greatest ? "greatest" : "smallest", slot_text);
  problem.working = join(steps, "; ");
  problem.answer = fixed(result, 2) + " mm";
  return problem;
}

struct Group {
  const char* code;
  std::array<const char*, 4> products;
};

constexpr std::array<Group, 8> kGroups = {
    {{"BRK", {"brake discs", "brake pads", "brake drums", "brake hoses"}},
     {"GER", {"spur gears", "bevel gears", "gear racks", "worm gears"}},
     {"PMP", {"pump housings", "pump seals", "pump shafts", "impellers"}},
     {"VLV", {"ball valves", "check valves", "valve seats", "relief valves"}},
     {"MTR", {"stators", "rotors", "motor covers", "carbon brushes"}},
     {"FST", {"hex bolts", "lock nuts", "rivets", "threaded rods"}},
     {"SNS", {"pressure sensors", "flow sensors", "level sensors", "heat sensors"}},
     {"CBL", {"wire harnesses", "cable clamps", "plugs", "ribbon cables"}}}};

struct Batch {
  int64_t number;
  const char* group;
  const char* product;
  int64_t line;
  int64_t sample = 0;
  int64_t minor = 0;
  int64_t critical = 0;

  [[nodiscard]] int64_t points() const { return 5 * critical + minor; }
  [[nodiscard]] int64_t rate() const { return points() * 10000 / sample; }  // per 100, in hundredths
  [[nodiscard]] char status() const { return rate() < 200 ? 'R' : rate() < 500 ? 'W' : 'B'; }
  [[nodiscard]] std::string code() const { return concat(group, '-', status(), line); }
  [[nodiscard]] std::string steps(bool with_critical) const {
    std::string text = concat(product, ": ", group, "; ");
    if (with_critical) text += concat("5 x ", critical, " + ", minor, " = ", points(), "; ");
    if (sample != 100) text += concat(points(), " in ", sample, " = ", shortest(rate(), 2), " per 100; ");
    return text + concat(shortest(rate(), 2), ": ", status(), "; line ", line);
  }
};

// One batch with a sample of 100 (1), another (2), with critical defects (3); two and three batches, the worst first
// (4, 5).
Problem release(Draw& draw, int64_t difficulty) {
  constexpr std::array<int64_t, 3> kSamples = {200, 400, 500};
  constexpr Forms kRecords = {"Batch {0}: {1}, line {2}, {3} in a sample of {4}",
                              "Batch {0} of {1} from line {2}, sample {4}: {3}",
                              "{1} | batch {0} | line {2} | sample {4} | {3}"};
  constexpr Forms kOne = {"{0}. Release code?", "Inspection: {0}. What is the release code?", "{0}\nCode?"};
  constexpr Forms kSeveral = {"{0}\nRelease codes, worst batch first?",
                              "{0}\nGive the release codes from the worst batch to the best.",
                              "Code these batches, the worst first:\n{0}"};
  const bool critical = difficulty >= 3, several = difficulty >= 4;
  std::vector<Batch> batches;
  for (int64_t i = 0; i < std::max<int64_t>(difficulty - 2, 1); ++i) {
    const Group& group = draw.pick(kGroups);
    Batch batch = {draw.between(1000, 9999), group.code, draw.pick(group.products), draw.between(1, 6)};
    batch.sample = difficulty == 1 ? 100 : draw.pick(kSamples);
    batch.critical = critical ? draw.below(batch.sample / 100 + 1) : 0;
    batch.minor = draw.below(batch.sample * (critical ? 6 : 9) / 100);
    const auto same_rate = [&](const Batch& other) { return other.rate() == batch.rate(); };
    while (std::any_of(batches.begin(), batches.end(), same_rate)) ++batch.minor;
    batches.push_back(batch);
  }
  Problem problem;
  problem.rules = concat(
      "Release code: BRK brakes, GER gears, PMP pumps, VLV valves, MTR motors, FST fasteners, SNS sensors, CBL cables; "
      "points per "
      "100 pieces: under 2 R, 2 to under 5 W, 5 and over B; then the line. A defect is 1 point",
      critical ? ", a critical one 5. " : ". ",
      several ? "Order: most points per 100 first. Example: BRK-B3, GER-R1." : "Example code: BRK-R3.");
  problem.parameters = "release";
  std::vector<std::string> records, steps, codes, rates;
  const char* record = draw.pick(kRecords);
  for (const Batch& b : batches) {
    problem.parameters += concat(' ', b.product, ' ', b.line, ' ', b.sample, ' ', b.minor, ' ', b.critical);
    const std::string defects = concat(critical ? concat(b.critical, " critical and ") : "",
                                       count_of(b.minor, critical ? "minor defect" : "defect"));
    records.push_back(fill_form(record, b.number, b.product, b.line, defects, b.sample));
    steps.push_back(b.steps(critical));
  }
  std::sort(batches.begin(), batches.end(), [](const Batch& a, const Batch& b) { return a.rate() > b.rate(); });
  for (const Batch& b : batches) {
    codes.push_back(b.code());
    rates.push_back(shortest(b.rate(), 2));
  }
  if (several) steps.push_back("order: " + join(rates, " > "));
  problem.prompt = fill_form(draw.pick(several ? kSeveral : kOne), join(records, "\n"));
  problem.working = join(steps, "; ");
  problem.answer = join(codes);
  return problem;
}

struct Job {
  int64_t shade;  // index into kShades
  int64_t minutes;
};

constexpr std::array<const char*, 6> kShades = {"white", "yellow", "orange", "red", "blue", "black"};
constexpr const char* kScale = "white, yellow, orange, red, blue, black";

// One job (1), two as listed (2), three from light to dark (3), with changeovers by the shades between (4), five with a
// break (5).
Problem schedule(Draw& draw, int64_t difficulty) {
  constexpr Forms kOne = {
      "A job of {0} pieces starts at {1}. The line makes {2} pieces a minute. When does the job end?",
      "Line speed {2} pieces a minute, {0} pieces, start {1}. End time?",
      "Start {1}: {0} pieces at {2} a minute. When is the job done?"};
  constexpr Forms kSeveral = {"Paint line from {0}{1}: {2}. {3}. When does the {4} job end?",
                              "Jobs: {2}. The line starts at {0} and runs them{1}. {3}. End of the {4} job?",
                              "{3}. The line starts at {0}, jobs{1}: {2}. At what time is the {4} job done?"};
  Problem problem;
  const int64_t start = draw.between(60, 84) * 5;
  if (difficulty == 1) {
    const int64_t speed = draw.between(2, 12), minutes = draw.between(4, 48) * 5;
    problem.rules = "A job takes pieces / speed minutes. Example: 08:50.";
    problem.parameters = concat("schedule ", start, ' ', speed, ' ', minutes);
    problem.prompt = fill_form(draw.pick(kOne), speed * minutes, clock_time(start), speed);
    problem.working = concat(speed * minutes, " / ", speed, " = ", minutes, " min; ", clock_time(start), " + ", minutes,
                             " min = ", clock_time(start + minutes));
    problem.answer = clock_time(start + minutes);
    return problem;
  }
  const bool by_shade = difficulty >= 4;
  const int64_t change = draw.between(1, by_shade ? 3 : 6) * 5, pause = difficulty == 5 ? draw.between(3, 9) * 5 : 0;
  std::vector<Job> jobs;
  std::vector<std::string> list, steps;
  constexpr std::array<int64_t, 6> kIndices = {0, 1, 2, 3, 4, 5};
  for (const int64_t shade : draw.several(kIndices, difficulty)) {
    jobs.push_back({shade, draw.between(4, 24) * 5});
    list.push_back(concat(kShades[static_cast<size_t>(shade)], ' ', jobs.back().minutes, " min"));
  }
  problem.rules =
      by_shade
          ? "Jobs run from light to dark; a changeover takes the given minutes for each step on the scale of shades."
          : "Between two jobs lies a changeover.";
  problem.rules += pause > 0 ? " The break comes right after the second job, before the changeover. Example: 10:25."
                             : " Example: 10:25.";
  problem.parameters = concat("schedule ", start, ' ', change, ' ', pause, ' ', join(list));
  if (difficulty >= 3) {
    std::sort(jobs.begin(), jobs.end(), [](const Job& a, const Job& b) { return a.shade < b.shade; });
  }
  const int64_t target = difficulty == 2 ? 1 : draw.between(difficulty == 5 ? 2 : 1, difficulty - 1);
  problem.parameters += concat(' ', target);
  int64_t time = start;
  for (int64_t i = 0; i <= target; ++i) {
    const Job& job = jobs[static_cast<size_t>(i)];
    if (i == 2 && pause > 0) steps.push_back(concat("break until ", clock_time(time += pause)));
    if (i > 0) {
      const int64_t minutes = by_shade ? change * (job.shade - jobs[static_cast<size_t>(i - 1)].shade) : change;
      steps.push_back(concat("changeover ", minutes, " min: ", clock_time(time += minutes)));
    }
    steps.push_back(
        concat(kShades[static_cast<size_t>(job.shade)], ' ', job.minutes, " min: ", clock_time(time += job.minutes)));
  }
  std::string rule = by_shade ? concat("A changeover takes ", change, " minutes for each step on the scale ", kScale)
                              : concat("A changeover takes ", change, " minutes");
  if (pause > 0) rule += concat("; after the second job comes a break of ", pause, " minutes");
  const std::string order = difficulty == 2 ? " in this order"
                            : by_shade      ? " from light to dark"
                                            : concat(" from light to dark (", kScale, ')');
  problem.prompt = fill_form(draw.pick(kSeveral), clock_time(start), order, join(list), rule,
                             kShades[static_cast<size_t>(jobs[static_cast<size_t>(target)].shade)]);
  problem.working = concat("start ", clock_time(start), "; ", join(steps, "; "));
  problem.answer = clock_time(time);
  return problem;
}

}  // namespace

Task manufacturing_task() {
  return {.name = "manufacturing",
          .description = "production: tolerance chains, release codes of batches, schedules with changeovers",
          .site = 0x4d414e31,
          .kinds = {{"tolerance", "numeric", 1, tolerance},
                    {"release", "exact", 1, release},
                    {"schedule", "exact", 1, schedule}}};
}

}  // namespace tessera::data
