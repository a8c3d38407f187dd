#include "data/tasks/education.h"

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

constexpr std::array<const char*, 12> kStudents = {"Amir",  "Bea",  "Carl", "Dina", "Emil", "Fay",
                                                   "Goran", "Hana", "Ivan", "Jun",  "Kira", "Lena"};
constexpr std::array<const char*, 14> kSubjects = {"Algebra", "Biology",   "Chemistry",  "Drama",   "English",
                                                   "French",  "Geography", "History",    "Latin",   "Music",
                                                   "Physics", "Spanish",   "Statistics", "Theology"};

Problem percent_of_points(Draw& draw) {
  constexpr Forms kForms = {"{0} scored {1} of {2} points in {3}. How many percent?",
                            "{3} test, {2} points. {0} has {1}. Percent?",
                            "What is the result of {0} in {3} in percent: {1} points out of {2}?"};
  const int64_t total = draw.pick(std::array<int64_t, 7>{20, 25, 40, 50, 80, 200, 250}),
                score = draw.between(total * 3 / 10, total);
  Problem problem;
  problem.rules = "Percent is 100 times the score divided by the points of the test. Example: 72.5%.";
  problem.parameters = concat("grade ", score, ' ', total);
  problem.prompt = fill_form(draw.pick(kForms), draw.pick(kStudents), score, total, draw.pick(kSubjects));
  const std::string percent = shortest(score * 10000 / total, 2);
  problem.working = concat("100 x ", score, " / ", total, " = ", percent);
  problem.answer = percent + "%";
  return problem;
}

// Percent of points (1); weighted parts: two (2), three (3), with days late (4), with quizzes of which the worst is
// dropped (5).
Problem grade(Draw& draw, int64_t difficulty) {
  if (difficulty == 1) return percent_of_points(draw);
  constexpr Forms kForms = {"{0}: {1}. Final grade in percent?",
                            "Grade sheet of {0}\n{1}\nWhat is the final grade in percent?",
                            "The course weighs its parts. {0} has {1}. Which percentage is that in all?"};
  const int64_t first = difficulty == 2 ? 0 : draw.between(2, 4) * 10, second = draw.between(1, 3) * 10,
                quiz = difficulty == 5 ? 20 : 0;
  const int64_t num_parts = difficulty == 2 ? 2 : 3;
  const std::array<const char*, 3> kParts = {"project", "homework", "exam"};
  const std::array<int64_t, 3> weights = {first, second, 100 - first - second - quiz};
  const int64_t days = difficulty >= 4 ? draw.between(1, 4) : 0;
  Problem problem;
  problem.parameters = concat("grade ", difficulty, ' ', first, ' ', second, ' ', days);
  std::vector<std::string> parts, steps, sums;
  int64_t total = 0;  // in hundredths
  const auto add = [&](int64_t score_tenths, int64_t weight) {
    total += score_tenths * weight / 10;
    steps.push_back(
        concat(shortest(score_tenths, 1), " x ", fixed(weight, 2), " = ", shortest(score_tenths * weight, 3)));
    sums.push_back(shortest(score_tenths * weight, 3));
  };
  for (int64_t i = 3 - num_parts; i < 3; ++i) {
    const int64_t score = draw.between(40, 100), weight = weights[static_cast<size_t>(i)];
    problem.parameters += concat(' ', score);
    parts.push_back(concat(kParts[static_cast<size_t>(i)], ' ', score, " (", weight, "%)"));
    if (i == 0 && days > 0) {
      parts.back().insert(parts.back().size() - 1, concat(", ", count_of(days, "day"), " late"));
      steps.push_back(concat(score, " - ", days, " x 5 = ", score - 5 * days));
    }
    add((score - (i == 0 ? 5 * days : 0)) * 10, weight);
  }
  if (quiz > 0) {
    std::array<int64_t, 3> scores = {draw.between(40, 100), draw.between(40, 100), draw.between(40, 100)};
    problem.parameters += concat(' ', scores[0], ' ', scores[1], ' ', scores[2]);
    parts.push_back(concat("quizzes ", scores[0], ", ", scores[1], " and ", scores[2], " (", quiz, "%)"));
    std::sort(scores.begin(), scores.end());
    steps.push_back(concat("quizzes without ", scores[0], ": (", scores[1], " + ", scores[2],
                           ") / 2 = ", shortest((scores[1] + scores[2]) * 5, 1)));
    add((scores[1] + scores[2]) * 5, quiz);
  }
  problem.rules = "The final grade is the sum of score times weight.";
  std::string rule;
  if (days > 0) rule += "5 points off for each day late";
  if (quiz > 0) rule += ", lowest quiz dropped, the others averaged";
  if (!rule.empty()) problem.rules += " House rule: " + rule + ".";
  problem.rules += " Example: 72.5%.";
  const size_t form = static_cast<size_t>(draw.below(3));
  problem.prompt =
      fill_form(kForms[form], draw.pick(kStudents),
                join(parts, form == 1 ? "\n" : ", ") + (rule.empty() ? "" : (form == 1 ? "\n" : "; ") + rule));
  problem.working = concat(join(steps, "; "), "; ", join(sums, " + "), " = ", shortest(total, 2));
  problem.answer = shortest(total, 2) + "%";
  return problem;
}

struct Interval {
  int64_t start;
  int64_t end;

  [[nodiscard]] std::string text() const { return clock_time(start) + "-" + clock_time(end); }
};

// The end of a lesson (1), the start of the next (2), the first free time of a room (3), of a room and one or two
// teachers (4, 5).
Problem timetable(Draw& draw, int64_t difficulty) {
  constexpr Forms kEnd = {"{0} starts at {1} and lasts {2} minutes. When does it end?",
                          "Lesson: {0}, start {1}, {2} minutes. End time?",
                          "When is {0} over if it begins at {1} and takes {2} minutes?"};
  constexpr Forms kNext = {
      "{0} starts at {1} and lasts {2} minutes. After a break of {3} minutes comes {4}. When does {4} start?",
      "Timetable: {0} at {1}, {2} minutes; break, {3} minutes; {4}. Start of {4}?",
      "When can {4} begin if {0} runs {2} minutes from {1} and a break of {3} minutes follows?"};
  constexpr Forms kFree = {"{0}. Earliest start of {1}, {2} minutes, not before 08:00?",
                           "{1} takes {2} minutes.\n{0}.\nWhen can it start at the earliest, from 08:00 on?",
                           "Find the first time from 08:00 on for {2} minutes of {1}. {0}."};
  Problem problem;
  const std::vector<const char*> subjects = draw.several(kSubjects, 2);
  const int64_t length = draw.between(6, 24) * 5;
  if (difficulty <= 2) {
    const int64_t start = draw.between(96, 192) * 5, pause = difficulty == 2 ? draw.between(1, 8) * 5 : 0;
    problem.rules = concat("A lesson ends its length after its start",
                           pause > 0 ? ", and the next starts after the break" : "", ". Example: 11:35.");
    problem.parameters = concat("timetable ", start, ' ', length, ' ', pause);
    problem.prompt =
        fill_form(draw.pick(pause > 0 ? kNext : kEnd), subjects[0], clock_time(start), length, pause, subjects[1]);
    problem.working = concat(clock_time(start), " + ", length, " min = ", clock_time(start + length));
    if (pause > 0) problem.working += concat("; + ", pause, " min = ", clock_time(start + length + pause));
    problem.answer = clock_time(start + length + pause);
    return problem;
  }
  constexpr std::array<const char*, 3> kOwners = {"The room", "the teacher", "the class"};
  std::vector<Interval> taken;
  std::vector<std::string> lists;
  problem.parameters = concat("timetable ", length);
  for (int64_t owner = 0; owner < difficulty - 2; ++owner) {
    std::vector<std::string> list;
    int64_t time = 480 + 5 * draw.below(12);
    for (int64_t i = 0; i < 3; ++i) {
      const Interval busy = {time, time + draw.between(4, 20) * 5};
      time = busy.end + draw.between(2, 20) * 5;
      taken.push_back(busy);
      list.push_back(busy.text());
    }
    problem.parameters += " " + join(list);
    lists.push_back(concat(kOwners[static_cast<size_t>(owner)], " is taken ", join(list)));
  }
  std::sort(taken.begin(), taken.end(), [](const Interval& a, const Interval& b) { return a.start < b.start; });
  int64_t time = 480;
  std::vector<std::string> steps;
  for (const Interval& busy : taken) {
    if (busy.end <= time) continue;
    if (busy.start >= time + length) break;
    steps.push_back(concat(clock_time(time), " meets ", busy.text()));
    time = busy.end;
  }
  steps.push_back(concat(clock_time(time), " to ", clock_time(time + length), " is free"));
  problem.rules =
      "A lesson may start when another ends, and all who are listed must be free for its whole length. Example: 11:35.";
  problem.prompt = fill_form(draw.pick(kFree), join(lists, "; "), subjects[0], length);
  problem.working = join(steps, "; ");
  problem.answer = clock_time(time);
  return problem;
}

// One mark under 50 among three (1), some among four (2), with compensation (3), with attendance (4), seven subjects
// (5).
Problem resit(Draw& draw, int64_t difficulty) {
  constexpr Forms kForms = {"Marks of {0}: {1}.{2} Which subjects must be resat?", "{0}\n{1}\nSubjects to resit?{2}",
                            "{0} has {1}. Which are to be repeated?{2}"};
  const int64_t count = difficulty <= 2 ? difficulty + 2 : difficulty == 5 ? 7 : 5;
  const bool compensation = difficulty >= 3, attendance = difficulty >= 4;
  const int64_t failed = draw.below(count), least = draw.below(2) == 0 ? 50 : 70;
  struct Result {
    const char* subject;
    int64_t mark;
    int64_t present;
  };
  std::vector<Result> results;
  std::vector<std::string> list, steps, answers;
  int64_t sum = 0;
  for (const char* subject : draw.several(kSubjects, count)) {
    const bool is_failed = static_cast<int64_t>(results.size()) == failed;
    const int64_t mark = is_failed            ? draw.between(20, 44)
                         : difficulty == 1    ? draw.between(50, 98)
                         : draw.below(3) == 0 ? draw.between(compensation ? 45 : 30, 49)
                                              : draw.between(least, least + 28);
    results.push_back(
        {subject, mark, attendance ? (draw.below(5) == 0 ? draw.between(60, 79) : draw.between(80, 100)) : 100});
    sum += mark;
    list.push_back(concat(subject, ' ', mark));
    if (attendance) list.back() += concat(" (", results.back().present, "% present)");
  }
  const bool compensated = compensation && sum >= 60 * count;
  if (compensation) steps.push_back(concat("sum ", sum, compensated ? " >= " : " < ", count, " x 60 = ", count * 60));
  for (const Result& result : results) {
    const bool absent = result.present < 80, under = result.mark < (compensated ? 45 : 50);
    if (absent || under) answers.push_back(result.subject);
    if (absent) {
      steps.push_back(concat(result.subject, ' ', result.present, "% present: resit"));
    } else if (result.mark < 50) {
      steps.push_back(concat(result.subject, ' ', result.mark, under ? ": resit" : ": compensated"));
    }
  }
  std::string rule = " Pass mark 50";
  if (compensation) rule += "; with an average of 60 or more 45 is enough";
  if (attendance) rule += "; under 80% present is a resit in any case";
  rule += ".";
  Problem problem;
  problem.rules =
      concat("Marks under the pass mark are resat.", rule, " Subjects in the order given. Example: Algebra, Latin.");
  problem.parameters = concat("resit ", join(list));
  const size_t form = static_cast<size_t>(draw.below(3));
  problem.prompt = fill_form(kForms[form], draw.pick(kStudents), join(list, form == 1 ? "\n" : ", "), rule);
  problem.working = join(steps, "; ");
  problem.answer = join(answers);
  return problem;
}

}  // namespace

Task education_task() {
  return {.name = "education",
          .description = "school administration: weighted grades, free times in timetables, subjects to resit",
          .site = 0x45445531,
          .kinds = {{"grade", "numeric", 1, grade}, {"timetable", "exact", 1, timetable}, {"resit", "set", 1, resit}}};
}

}  // namespace tessera::data
