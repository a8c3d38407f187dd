#include "data/tasks/publishing.h"

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

// Pages of a text (1), with front matter (2), signatures (3), chapters on right-hand pages (4), with blank pages at the
// end (5).
Problem pages(Draw& draw, int64_t difficulty) {
  constexpr Forms kText = {"A manuscript of {0} words is set at {1} words a page{2}. {3}",
                           "{0} words, {1} words a page{2}. {3}",
                           "Typesetting: {1} words a page{2}, {0} words of text. {3}"};
  constexpr Forms kChapters = {"Chapters of {0} pages{2}. {1} {3}", "A book has {2}chapters of {0} pages. {1} {3}",
                               "{1} {3} Chapter lengths in pages: {0}."};
  constexpr std::array<const char*, 5> kQuestions = {
      "How many pages?", "How many pages in all?", "How many signatures of {0} pages are needed?",
      "On which page does the last chapter end?", "How many pages are printed in all?"};
  const int64_t signature = draw.pick(std::array<int64_t, 3>{8, 12, 16});
  Problem problem;
  problem.rules = "Pages are whole.";
  const std::string question = fill_form(kQuestions[static_cast<size_t>(difficulty - 1)], signature);
  if (difficulty <= 3) {
    const int64_t per_page = draw.between(20, 45) * 10, words = draw.between(80, 1400) * 100,
                  front = difficulty >= 2 ? draw.between(4, 24) : 0;
    const int64_t text = divide_up(words, per_page), sum = text + front, signatures = divide_up(sum, signature);
    problem.parameters = concat("pages ", words, ' ', per_page, ' ', front, ' ', difficulty == 3 ? signature : 0);
    problem.prompt = fill_form(draw.pick(kText), words, per_page,
                               front > 0 ? concat(", with ", front, " pages of front matter") : "", question);
    problem.working = concat(words, " / ", per_page, " rounded up = ", text);
    if (front > 0) problem.working += concat("; ", text, " + ", front, " = ", sum);
    if (difficulty == 3) problem.working += concat("; ", sum, " / ", signature, " rounded up = ", signatures);
    if (difficulty == 3) problem.rules += " A book is printed in whole signatures.";
    problem.rules += difficulty == 3 ? " Example: 14 signatures." : " Example: 214 pages.";
    problem.answer = difficulty == 3 ? count_of(signatures, "signature") : count_of(sum, "page");
    return problem;
  }
  const int64_t count = difficulty == 4 ? 4 : 6, front = difficulty == 5 ? draw.between(3, 15) * 2 : 0;
  std::vector<std::string> list, steps;
  int64_t last = front;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t length = draw.between(7, difficulty == 4 ? 48 : 95), first = last % 2 == 0 ? last + 1 : last + 2;
    last = first + length - 1;
    list.push_back(concat(length));
    steps.push_back(concat(first, " to ", last));
  }
  const int64_t printed = divide_up(last, signature) * signature;
  problem.parameters = concat("pages ", front, ' ', join(list), ' ', difficulty == 5 ? signature : 0);
  const std::string front_text = front > 0 ? concat(front, " pages of front matter and ") : "";
  std::string rule = "Each chapter starts on an odd page.";
  if (difficulty == 4) rule += " The first starts on page 1.";
  if (difficulty == 5) rule += concat(" The sheets hold ", signature, " pages; blank pages fill the last one.");
  const size_t form = static_cast<size_t>(draw.below(3));
  const std::string before = form == 1   ? front_text
                             : front > 0 ? concat(" after ", front, " pages of front matter")
                                         : "";
  problem.prompt =
      fill_form(kChapters[form], join(list),
                form == 2 && front > 0 ? concat("A book opens with ", front, " pages of front matter. ", rule) : rule,
                before, question);
  problem.working = join(steps, "; ");
  if (difficulty == 5) {
    problem.working +=
        concat("; ", last, " / ", signature, " rounded up = ", printed / signature, "; x ", signature, " = ", printed);
  }
  problem.rules = concat("Each chapter starts on an odd page; the page before it may stay blank and counts.",
                         difficulty == 5 ? " Front matter counts too. Whole sheets are printed." : "",
                         " Example: ", difficulty == 4 ? "page 187." : "192 pages.");
  problem.answer = difficulty == 4 ? concat("page ", last) : concat(printed, " pages");
  return problem;
}

// Working days of an editor (1); the day of the end: counting all days (2), Monday to Friday (3), two stages (4), three
// and a holiday (5).
Problem deadline(Draw& draw, int64_t difficulty) {
  constexpr std::array<const char*, 3> kStages = {"editing", "proofreading", "indexing"};
  constexpr Forms kDays = {"{0} of {1} words goes at {2} words a day. How many days does it take?",
                           "{1} words, {0} at {2} words a day. How many days?",
                           "How many days does {0} {1} words take at {2} words a day?"};
  constexpr Forms kDate = {"A manuscript of {0} words: {1}, from {2} on{3}. On which date is it done?",
                           "{0} words; {1}. Start: {2}{3}. Date of the last day?",
                           "{0} words from {2} on{3}: {1}. Which date is the last day?"};
  const int64_t words = draw.between(60, 900) * 100;
  Problem problem;
  problem.parameters = concat("deadline ", words);
  if (difficulty == 1) {
    const int64_t speed = draw.between(6, 60) * 100, days = divide_up(words, speed);
    problem.parameters += concat(' ', speed);
    const size_t form = static_cast<size_t>(draw.below(3));
    const char* stage = draw.pick(kStages);
    const std::string name = form == 0 ? concat(static_cast<char>(stage[0] - 'a' + 'A'), stage + 1) : stage;
    problem.rules = "A day that is only partly needed counts whole. Example: 9 days.";
    problem.prompt = fill_form(kDays[form], name, words, speed);
    problem.working = concat(words, " / ", speed, " rounded up = ", days);
    problem.answer = count_of(days, "day");
    return problem;
  }
  const bool workdays = difficulty >= 3;
  const int64_t start = draw.below(365), first_weekday = draw.below(5);
  const int64_t holiday = difficulty == 5 ? draw.between(3, 12) : -1;  // days after the start
  const int64_t num_stages = difficulty <= 3 ? 1 : difficulty - 2;
  std::vector<std::string> list, steps;
  int64_t total = 0;
  for (int64_t stage = 0; stage < num_stages; ++stage) {
    const int64_t speed = draw.between(40, 110) * 100 / (workdays ? 1 : 2), days = divide_up(words, speed);
    const char* name = kStages[static_cast<size_t>(stage)];
    total += days;
    problem.parameters += concat(' ', speed);
    list.push_back(concat(name, " at ", speed, " words a day"));
    steps.push_back(concat(name, ' ', words, " / ", speed, " rounded up = ", count_of(days, "day")));
  }
  problem.parameters += concat(' ', start, ' ', workdays ? first_weekday : 0, ' ', holiday);
  int64_t last = -1;
  for (int64_t left = total; left > 0;) {
    ++last;
    if (!workdays || (!is_weekend(first_weekday + last) && last != holiday)) --left;
  }
  if (num_stages > 1) steps.push_back(concat("in all ", total, " days"));
  if (holiday >= 0) {
    const bool lost = holiday <= last && !is_weekend(first_weekday + holiday);
    total += lost ? 1 : 0;
    steps.push_back(
        concat("the day off is a ", weekday(first_weekday + holiday), lost ? concat(": ", total, " days") : ""));
  }
  if (workdays) {
    const int64_t weekends = (first_weekday + total - 1) / 5;
    steps.push_back(concat(weekday(first_weekday), " is day ", first_weekday + 1, ": (", first_weekday + 1, " + ",
                           total, " - 2) / 5 rounded down = ", weekends, weekends == 1 ? " weekend; " : " weekends; ",
                           total, " + 2 x ", weekends, " = ", last + 1));
  }
  steps.push_back(concat(date(start), " + ", last, " = ", date_steps(start, last)));
  problem.rules =
      concat("The first day counts; a day that is only partly needed counts whole; no leap year.",
             workdays ? " Work rests on Saturday and Sunday." : " Every day of the week counts.",
             num_stages > 1 ? " Each stage starts on the day after the one before." : "", " Example: 14 March.");
  std::string when = workdays ? weekday(first_weekday) + " " + date(start) : date(start);
  std::string note = workdays ? ", Monday to Friday only" : ", weekends included";
  if (holiday >= 0) note += concat(", but not on ", date(start + holiday));
  if (num_stages > 1) note += ", one stage after the other";
  problem.prompt = fill_form(draw.pick(kDate), words, join(list), when, note + " (no leap year)");
  problem.working = join(steps, "; ");
  problem.answer = date(start + last);
  return problem;
}

// One phrase of a sentence, as it came and as the style sheet wants it.
struct Phrase {
  std::string raw;
  std::string styled;
};

Phrase draw_phrase(Draw& draw, int64_t rule) {
  constexpr std::array<const char*, 12> kNumbers = {"one",   "two",   "three", "four", "five",   "six",
                                                    "seven", "eight", "nine",  "ten",  "eleven", "twelve"};
  constexpr std::array<const char*, 8> kThings = {"essays", "stories", "maps",    "photos",
                                                  "tables", "prizes",  "reviews", "letters"};
  constexpr std::array<std::array<const char*, 2>, 6> kVerbs = {{{"organized", "organised"},
                                                                 {"recognized", "recognised"},
                                                                 {"criticized", "criticised"},
                                                                 {"publicized", "publicised"},
                                                                 {"scrutinized", "scrutinised"},
                                                                 {"prioritized", "prioritised"}}};
  switch (rule) {
    case 0: {
      const int64_t number = draw.between(2, 24);
      const char* thing = draw.pick(kThings);
      return {concat(number, ' ', thing),
              concat(number <= 12 ? kNumbers[static_cast<size_t>(number - 1)] : std::to_string(number), ' ', thing)};
    }
    case 1: {
      const int64_t day = draw.between(1, 28), year = draw.between(1950, 2030);
      const std::string month = month_name(draw.below(12));
      return {concat("on ", month, ' ', day, ", ", year), concat("on ", day, ' ', month, ' ', year)};
    }
    case 2: {
      const int64_t share = draw.between(2, 98);
      return {concat("by ", share, '%'), concat("by ", share, " per cent")};
    }
    case 3: {
      const int64_t hour = draw.between(1, 11), minute = draw.below(12) * 5;
      const bool afternoon = draw.below(2) == 0;
      const std::string minutes = clock_time(minute).substr(3);
      return {concat("at ", hour, ':', minutes, afternoon ? " pm" : " am"),
              "at " + clock_time((hour + (afternoon ? 12 : 0)) * 60 + minute)};
    }
    default: {
      const auto& verb = draw.pick(kVerbs);
      return {verb[0], verb[1]};
    }
  }
}

// One phrase in house style (1) to five in a sentence (5).
Problem style(Draw& draw, int64_t difficulty) {
  constexpr Forms kForms = {"House style, please: {0}", "Edit by the style sheet: {0}", "Put into house style: {0}"};
  constexpr std::array<const char*, 4> kSubjects = {"The press", "Our team", "The journal", "The library"};
  constexpr std::array<int64_t, 4> kRules = {0, 1, 2, 3};
  std::array<bool, 4> used{};
  for (const int64_t rule : draw.several(kRules, std::min<int64_t>(difficulty, 4))) {
    used[static_cast<size_t>(rule)] = true;
  }
  const Phrase verb = draw_phrase(draw, 4), things = draw_phrase(draw, 0);
  const bool spelling = difficulty >= 3;
  Phrase sentence = {draw.pick(kSubjects), ""};
  sentence.styled = sentence.raw;
  std::vector<std::string> steps;
  Problem problem;
  const auto add = [&](const Phrase& phrase, const char* joint = " ") {
    sentence.raw += joint + phrase.raw;
    sentence.styled += joint + phrase.styled;
    if (phrase.raw != phrase.styled) steps.push_back(concat(phrase.raw, " -> ", phrase.styled));
  };
  add(spelling ? verb : Phrase{verb.styled, verb.styled});
  add(used[0] ? things
              : Phrase{"its " + things.styled.substr(things.styled.find(' ') + 1),
                       "its " + things.styled.substr(things.styled.find(' ') + 1)});
  if (used[1]) add(draw_phrase(draw, 1));
  if (used[3]) add(draw_phrase(draw, 3));
  if (used[2]) add({"and grew", "and grew"});
  if (used[2]) add(draw_phrase(draw, 2));
  if (difficulty == 5) {
    add({"and bought", "and bought"}, ", ");
    add(draw_phrase(draw, 0));
  }
  problem.rules =
      "Style sheet: whole numbers up to twelve in words, above in figures; dates as 3 May 2024; per cent in words "
      "after figures; times as 15:00; "
      "-ise, not -ize. What is right stays. Example: The press organised its maps on 3 May 2024.";
  problem.parameters = "style " + sentence.raw;
  problem.prompt = fill_form(draw.pick(kForms), sentence.raw);
  problem.working = steps.empty() ? "nothing to change" : join(steps, "; ");
  problem.answer = sentence.styled;
  return problem;
}

}  // namespace

Task publishing_task() {
  return {.name = "publishing",
          .description =
              "book production: pages and signatures, deadlines by word count, sentences by the house's style sheet",
          .site = 0x50554231,
          .kinds = {{"pages", "numeric", 1, pages}, {"deadline", "exact", 1, deadline}, {"style", "exact", 1, style}}};
}

}  // namespace tessera::data
