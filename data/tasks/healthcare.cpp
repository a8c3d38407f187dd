#include "data/tasks/healthcare.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "core/error.h"
#include "data/tasks/draw.h"

namespace tessera::data {
namespace {

using detail::concat;

constexpr uint32_t kSite = 0x48454131;  // keeps this task's draws apart from others

struct Department {
  const char* code;
  std::array<const char*, 6> complaints;
};

constexpr std::array<Department, 8> kDepartments = {{
    {"CAR", {"chest pain", "heart palpitations", "tight chest", "irregular heartbeat", "racing heart", "chest pressure"}},
    {"ORT", {"ankle sprain", "wrist fracture", "knee injury", "shoulder pain after a fall", "broken finger", "hip pain"}},
    {"NEU", {"severe headache", "dizziness", "numb arm", "migraine", "fainting spell", "memory loss"}},
    {"RES", {"shortness of breath", "persistent cough", "wheezing", "asthma attack", "coughing at night", "fast breathing"}},
    {"GAS", {"stomach ache", "vomiting", "abdominal cramps", "diarrhea", "nausea", "heartburn"}},
    {"DER", {"skin rash", "itchy spots", "infected cut", "hives", "insect bite", "peeling skin"}},
    {"EYE", {"blurred vision", "red eye", "eye injury", "double vision", "itchy eyes", "swollen eyelid"}},
    {"ENT", {"ear pain", "sore throat", "nosebleed", "hearing loss", "blocked nose", "hoarse voice"}},
}};

constexpr std::array<const char*, 24> kNames = {"Adams", "Brook", "Chen",  "Diaz",  "Evans", "Fox",  "Garcia", "Hill",
                                                "Ito",   "Jones", "Kaya",  "Lopez", "Meyer", "Novak", "Okoro", "Patel",
                                                "Quinn", "Rossi", "Silva", "Tan",   "Usman", "Vogel", "Weber", "Young"};

// Age group C (under 18), A (18 to 64), S (65 and over); level by pain: 1 (0 to 3), 2 (4 to 6), 3 (7 to 10).
Problem coding(Draw& draw) {
  const Department& department = draw.pick(kDepartments);
  const char* complaint = draw.pick(department.complaints);
  const int64_t group = draw.below(3);
  const int64_t age = group == 0 ? draw.between(1, 17) : group == 1 ? draw.between(18, 64) : draw.between(65, 95);
  const int64_t level = draw.below(3);
  const int64_t pain = level == 0 ? draw.between(0, 3) : level == 1 ? draw.between(4, 6) : draw.between(7, 10);
  const char letter = "CAS"[group];
  const char* name = draw.pick(kNames);

  Problem problem;
  problem.kind = "coding";
  problem.rules =
      "Arrival code: CAR heart and chest, ORT bones and joints, NEU head and nerves, RES breathing, GAS stomach, DER "
      "skin, EYE eyes, ENT ear, nose, throat; age under 18 C, 18 to 64 A, 65 and over S; pain 0 to 3 1, 4 to 6 2, 7 to "
      "10 3. Example code: CAR-A2.";
  problem.parameters = concat("coding ", complaint, ' ', age, ' ', pain);
  switch (draw.below(3)) {
    case 0:
      problem.prompt = concat("Code this arrival: ", name, ", age ", age, ", ", complaint, ", pain ", pain, ".");
      break;
    case 1:
      problem.prompt = concat("Arrival record\nPatient: ", name, "\nComplaint: ", complaint, "\nAge: ", age,
                              "\nPain: ", pain, "\nCode?");
      break;
    default:
      problem.prompt = concat(name, " arrives with ", complaint, " (pain ", pain, "), age ", age,
                              ". What is the arrival code?");
  }
  problem.working = concat(complaint, ": ", department.code, "; age ", age, ": ", letter, "; pain ", pain, ": ",
                           level + 1);
  problem.answer = concat(department.code, '-', letter, level + 1);
  return problem;
}

// A dose order with a rate per kilogram and a limit.
Problem dose(Draw& draw) {
  constexpr std::array<int64_t, 4> kRates = {2, 3, 5, 10};
  const int64_t rate = draw.pick(kRates);
  const int64_t weight = draw.between(4, 40);
  const int64_t product = rate * weight;
  // The limit cuts in about every third order.
  const bool cut = draw.below(3) == 0;
  const int64_t limit = cut ? std::max<int64_t>(product / 20 * 10, 5) : (product / 50 + 1 + draw.below(3)) * 50;
  const int64_t given = std::min(product, limit);

  Problem problem;
  problem.kind = "dose";
  problem.rules = "A dose is weight times rate, but never above the limit. Example: 120 mg.";
  problem.parameters = concat("dose ", rate, ' ', weight, ' ', limit);
  problem.prompt = draw.below(2) == 0
                       ? concat("Dose order: ", rate, " mg per kg, weight ", weight, " kg, at most ", limit,
                                " mg. Dose in mg?")
                       : concat("A patient weighs ", weight, " kg. The order says ", rate, " mg per kg, limit ", limit,
                                " mg. How many mg are given?");
  problem.working = concat(weight, " x ", rate, " = ", product, "; limit ", limit, "; smaller: ", given);
  problem.answer = concat(given, " mg");
  return problem;
}

std::string clock_time(int64_t hour) {
  char text[8];
  std::snprintf(text, sizeof text, "%02d:00", static_cast<int>(hour));
  return text;
}

// When an infusion ends: volume / rate is a whole number of hours.
Problem infusion(Draw& draw) {
  constexpr std::array<int64_t, 2> kRates = {50, 100};
  const int64_t rate = draw.pick(kRates);
  const int64_t hours = draw.between(2, 8);
  const int64_t start = draw.between(6, 15);
  Problem problem;
  problem.kind = "infusion";
  problem.rules = "An infusion takes volume / rate hours. Example: 14:00.";
  problem.parameters = concat("infusion ", rate, ' ', hours, ' ', start);
  problem.prompt = draw.below(2) == 0
                       ? concat("An infusion of ", rate * hours, " ml at ", rate, " ml per hour starts at ",
                                clock_time(start), ". When does it end?")
                       : concat("Infusion: ", rate * hours, " ml, rate ", rate, " ml/h, start ", clock_time(start),
                                ". End time?");
  problem.working = concat(rate * hours, " / ", rate, " = ", hours, " hours; ", start, " + ", hours, " = ",
                           start + hours);
  problem.answer = clock_time(start + hours);
  return problem;
}

Problem draw_problem(uint64_t seed, uint64_t index, uint32_t attempt) {
  Draw draw(seed, kSite, index, attempt);
  const int64_t kind = draw.below(10);
  return kind < 7 ? coding(draw) : kind < 9 ? infusion(draw) : dose(draw);
}

}  // namespace

Task healthcare_task() {
  return {"healthcare",
          "hospital administration: arrival codes by the house's table, dose orders with a limit, ends of infusions",
          draw_problem};
}

}  // namespace tessera::data
