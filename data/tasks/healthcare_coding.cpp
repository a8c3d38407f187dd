#include "data/tasks/healthcare_coding.h"

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

struct Department {
  const char* code;
  std::array<const char*, 6> complaints;
};

constexpr std::array<Department, 8> kDepartments = {{
    {"CAR",
     {"chest pain", "heart palpitations", "tight chest", "irregular heartbeat", "racing heart", "chest pressure"}},
    {"ORT",
     {"ankle sprain", "wrist fracture", "knee injury", "shoulder pain after a fall", "broken finger", "hip pain"}},
    {"NEU", {"severe headache", "dizziness", "numb arm", "migraine", "fainting spell", "memory loss"}},
    {"RES",
     {"shortness of breath", "persistent cough", "wheezing", "asthma attack", "coughing at night", "fast breathing"}},
    {"GAS", {"stomach ache", "vomiting", "abdominal cramps", "diarrhea", "nausea", "heartburn"}},
    {"DER", {"skin rash", "itchy spots", "infected cut", "hives", "insect bite", "peeling skin"}},
    {"EYE", {"blurred vision", "red eye", "eye injury", "double vision", "itchy eyes", "swollen eyelid"}},
    {"ENT", {"ear pain", "sore throat", "nosebleed", "hearing loss", "blocked nose", "hoarse voice"}},
}};

constexpr std::array<const char*, 24> kNames = {
    "Adams", "Brook", "Chen",  "Diaz",  "Evans", "Fox",   "Garcia", "Hill", "Ito",   "Jones", "Kaya",  "Lopez",
    "Meyer", "Novak", "Okoro", "Patel", "Quinn", "Rossi", "Silva",  "Tan",  "Usman", "Vogel", "Weber", "Young"};

// Age group C (under 18), A (18 to 64), S (65 and over); level by pain: 1 (0 to 3), 2 (4 to 6), 3 (7 to 10).
struct Arrival {
  const char* department;
  const char* complaint;
  int64_t age;
  int64_t pain;
  const char* name;
  int64_t temperature = 0;  // in tenths of a degree; 0: not taken

  [[nodiscard]] char group() const { return age < 18 ? 'C' : age < 65 ? 'A' : 'S'; }
  [[nodiscard]] int64_t pain_level() const { return pain < 4 ? 1 : pain < 7 ? 2 : 3; }
  [[nodiscard]] bool fever() const { return temperature >= 385; }
  [[nodiscard]] int64_t level() const { return std::min<int64_t>(pain_level() + (fever() ? 1 : 0), 3); }
  [[nodiscard]] std::string code() const { return concat(department, '-', group(), level()); }
  [[nodiscard]] std::string steps() const {
    std::string text =
        concat(complaint, ": ", department, "; age ", age, ": ", group(), "; pain ", pain, ": ", pain_level());
    if (fever()) text += concat("; fever: ", level());
    return text;
  }
};

Arrival draw_arrival(Draw& draw) {
  const Department& department = draw.pick(kDepartments);
  const char* complaint = draw.pick(department.complaints);
  const int64_t group = draw.below(3);
  const int64_t age = group == 0 ? draw.between(1, 17) : group == 1 ? draw.between(18, 64) : draw.between(65, 95);
  const int64_t level = draw.below(3);
  const int64_t pain = level == 0 ? draw.between(0, 3) : level == 1 ? draw.between(4, 6) : draw.between(7, 10);
  return {department.code, complaint, age, pain, draw.pick(kNames)};
}

constexpr const char* kCodingRules =
    "Arrival code: CAR heart and chest, ORT bones and joints, NEU head and nerves, RES breathing, GAS stomach, DER "
    "skin, EYE eyes, ENT ear, nose, throat; age under 18 C, 18 to 64 A, 65 and over S; pain 0 to 3 1, 4 to 6 2, 7 to "
    "10 3.";

Problem code_of_one(Draw& draw, bool with_temperature) {
  Arrival a = draw_arrival(draw);
  Problem problem;
  problem.rules = kCodingRules;
  problem.parameters = concat("coding ", a.complaint, ' ', a.age, ' ', a.pain);
  const int64_t form = draw.below(3);
  std::string temperature;
  if (with_temperature) {
    a.temperature = draw.between(365, 399);
    temperature = fixed(a.temperature, 1) + " C";
    problem.rules += " A temperature of 38.5 C or more raises that digit by 1, to 3 at most.";
    problem.parameters += concat(' ', a.temperature);
  }
  problem.rules += " Example code: CAR-A2.";
  const auto taken = [&](const char* before) { return with_temperature ? before + temperature : ""; };
  switch (form) {
    case 0:
      problem.prompt = concat("Code this arrival: ", a.name, ", age ", a.age, ", ", a.complaint, ", pain ", a.pain,
                              taken(", temperature "), ".");
      break;
    case 1:
      problem.prompt = concat("Arrival record\nPatient: ", a.name, "\nComplaint: ", a.complaint, "\nAge: ", a.age,
                              "\nPain: ", a.pain, taken("\nTemperature: "), "\nCode?");
      break;
    default:
      problem.prompt = concat(a.name, " arrives with ", a.complaint, " (pain ", a.pain, taken(", temperature "),
                              "), age ", a.age, ". What is the arrival code?");
  }
  problem.working = a.steps();
  problem.answer = a.code();
  return problem;
}

// Several arrivals, in the order of treatment: the highest level first, then the oldest.
Problem code_of_several(Draw& draw, int64_t count) {
  const auto names = draw.several(kNames, count);
  std::vector<Arrival> arrivals;
  for (const char* name : names) {
    Arrival a = draw_arrival(draw);
    a.name = name;
    a.temperature = draw.between(365, 399);
    const auto same_age = [&](const Arrival& other) { return other.age == a.age; };
    while (std::any_of(arrivals.begin(), arrivals.end(), same_age)) ++a.age;
    arrivals.push_back(a);
  }
  Problem problem;
  problem.rules = concat(kCodingRules,
                         " A temperature of 38.5 C or more raises that digit by 1, to 3 at most. Order: highest digit "
                         "first, then the oldest. Example: CAR-A2, EYE-C1.");
  problem.parameters = "coding";
  const int64_t form = draw.below(3);
  std::string records;
  for (const Arrival& a : arrivals) {
    const std::string temperature = fixed(a.temperature, 1) + " C";
    problem.parameters += concat(' ', a.complaint, ' ', a.age, ' ', a.pain, ' ', a.temperature);
    if (form == 0) {
      records += concat('\n', a.name, ", age ", a.age, ", ", a.complaint, ", pain ", a.pain, ", ", temperature);
    }
    if (form == 1) {
      records += concat("\n- ", a.complaint, ", pain ", a.pain, ", ", temperature, ", age ", a.age, " (", a.name, ")");
    }
    if (form == 2) {
      records += concat('\n', a.name, ": ", a.age, " years, ", a.complaint, ", pain ", a.pain, ", ", temperature);
    }
  }
  problem.prompt =
      form == 0   ? "Code these arrivals in the order of treatment:" + records
      : form == 1 ? "Arrivals\n" + records.substr(1) + "\nCodes in the order of treatment?"
                  : concat(count, " patients wait:", records, "\nIn which order are they treated? Give their codes.");
  for (const Arrival& a : arrivals) problem.working += concat(a.name, ": ", a.steps(), " = ", a.code(), "; ");
  std::stable_sort(arrivals.begin(), arrivals.end(), [](const Arrival& a, const Arrival& b) {
    return a.level() != b.level() ? a.level() > b.level() : a.age > b.age;
  });
  std::vector<std::string> order, codes;
  for (const Arrival& a : arrivals) {
    order.push_back(concat(a.name, " (", a.level(), ", age ", a.age, ")"));
    codes.push_back(a.code());
  }
  problem.working += "order: " + join(order);
  problem.answer = join(codes);
  return problem;
}

}  // namespace

Problem arrival_coding(Draw& draw, int64_t difficulty) {
  return difficulty <= 2 ? code_of_one(draw, difficulty == 2) : code_of_several(draw, difficulty - 1);
}

}  // namespace tessera::data
