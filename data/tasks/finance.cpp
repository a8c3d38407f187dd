#include "data/tasks/finance.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/text.h"
#include "data/tasks/draw.h"
#include "data/tasks/finance_coding.h"
#include "data/tasks/format.h"

namespace tessera::data {
namespace {

using detail::concat;

Problem gross_of_net(Draw& draw) {
  constexpr std::array<int64_t, 3> kRates = {5, 10, 20};
  const int64_t rate = draw.pick(kRates);
  const int64_t net = draw.between(2, 48) * 20;
  const int64_t tax = net * rate / 100;
  Problem problem;
  problem.rules = "Gross is net plus VAT. Example: 240 EUR.";
  problem.parameters = concat("gross ", rate, ' ', net);
  problem.prompt = draw.below(2) == 0
                       ? concat("Net ", net, " EUR, VAT ", rate, "%. Gross amount?")
                       : concat("An invoice is ", net, " EUR net with ", rate, "% VAT. How much is payable?");
  problem.working = concat(rate, "% of ", net, " = ", tax, "; ", net, " + ", tax, " = ", net + tax);
  problem.answer = concat(net + tax, " EUR");
  return problem;
}

// Lines of quantity times price, each with its VAT, with a discount on all: one line (2) to four (5).
Problem gross(Draw& draw, int64_t difficulty) {
  if (difficulty == 1) return gross_of_net(draw);
  constexpr std::array<int64_t, 3> kRates = {5, 10, 20};
  constexpr std::array<const char*, 10> kItems = {"desks",    "chairs",  "lamps",   "phones",  "tablets",
                                                  "printers", "cameras", "shelves", "routers", "screens"};
  const int64_t num_lines = difficulty - 1;
  const int64_t discount = draw.pick(kRates);
  const auto items = draw.several(kItems, num_lines);
  Problem problem;
  problem.rules =
      "A line is quantity times price, less the discount, plus its VAT. Gross is the sum of the lines. Example: 1254 "
      "EUR.";
  problem.parameters = concat("gross ", discount);
  std::vector<std::string> lines, steps, sums;
  int64_t total = 0;
  for (const char* item : items) {
    const int64_t quantity = draw.between(2, 9), price = draw.between(1, 12) * 40, rate = draw.pick(kRates);
    const int64_t list = quantity * price;
    // In hundredths of 1 EUR; prices of 40 EUR leave none smaller.
    const int64_t net = list * (100 - discount), sum = net * (100 + rate) / 100;
    total += sum;
    problem.parameters += concat(' ', quantity, ' ', price, ' ', rate);
    lines.push_back(concat(quantity, ' ', item, " at ", price, " EUR, VAT ", rate, '%'));
    steps.push_back(concat(quantity, " x ", price, " = ", list, "; less ", discount, "% = ", money(net), "; plus ",
                           rate, "% = ", money(sum)));
    sums.push_back(money(sum));
  }
  switch (draw.below(3)) {
    case 0:
      problem.prompt = concat("Order: ", join(lines, "; "), ". Discount ", discount, "% on all. Gross amount in EUR?");
      break;
    case 1:
      problem.prompt = concat("Net prices\n", join(lines, "\n"), "\nDiscount: ", discount, "%\nGross total in EUR?");
      break;
    default:
      problem.prompt =
          concat("Net prices, ", discount, "% off: ", join(lines, "; "), ". How many EUR do we pay with VAT?");
  }
  problem.working = join(steps, "; ");
  if (num_lines > 1) problem.working += concat("; ", join(sums, " + "), " = ", money(total));
  problem.answer = money(total) + " EUR";
  return problem;
}

// The due date lies in the month of the invoice or in the next.
Problem due_soon(Draw& draw) {
  constexpr std::array<int64_t, 4> kTerms = {7, 10, 14, 20};
  const int64_t month = draw.below(12);
  const int64_t day = draw.between(1, 28);
  const int64_t term = draw.pick(kTerms);
  const std::string first = month_name(month);
  const int64_t sum = day + term;
  const bool next = sum > days_of_month(month);
  Problem problem;
  problem.rules = "The due date is the invoice date plus the days, not in a leap year. Example: 14 March.";
  problem.parameters = concat("due ", month, ' ', day, ' ', term);
  problem.prompt = draw.below(2) == 0
                       ? concat("Invoice of ", day, ' ', first, ", payable within ", term, " days. Due date?")
                       : concat("Terms: ", term, " days net. Invoice date: ", day, ' ', first,
                                " (not a leap year). When is payment due?");
  problem.working = concat(day, " + ", term, " = ", sum, "; ", first, " has ", days_of_month(month), " days");
  if (next) problem.working += concat("; ", sum, " - ", days_of_month(month), " = ", sum - days_of_month(month));
  problem.answer =
      next ? concat(sum - days_of_month(month), ' ', month_name((month + 1) % 12)) : concat(sum, ' ', first);
  return problem;
}

// A day of the year and its weekday; a weekend moves to Monday.
struct Day {
  int64_t day;
  int64_t weekday;

  [[nodiscard]] Day after(int64_t days) const { return {day + days, weekday + days}; }
  [[nodiscard]] Day on_workday() const { return is_weekend(weekday) ? after(7 - weekday % 7) : *this; }
  [[nodiscard]] std::string text() const { return tessera::data::weekday(weekday) + " " + date(day); }
};

// Longer terms (2), weekends (3), the later of invoice and delivery (4), the second reminder (5).
Problem due(Draw& draw, int64_t difficulty) {
  if (difficulty == 1) return due_soon(draw);
  constexpr std::array<int64_t, 5> kTerms = {21, 30, 45, 60, 90};
  // Far from the ends of the year where a second date could be taken for one of another year.
  const Day invoice = {difficulty >= 4 ? draw.between(20, 340) : draw.below(365), draw.below(5)};
  const int64_t term = draw.pick(kTerms), late = draw.between(1, 16);
  const bool delivered_later = draw.below(2) == 1;
  const int64_t first = draw.between(5, 12), second = draw.between(6, 15), form = draw.below(3);
  // A delivery before the invoice changes nothing.
  const Day delivery = invoice.after(delivered_later ? late : 365 * 7 - late);
  const Day begin = difficulty >= 4 && delivered_later ? delivery : invoice;
  Day result = begin.after(term);

  Problem problem;
  const std::string from = difficulty == 2 ? date(invoice.day) : invoice.text();
  problem.rules = "The due date is the invoice date plus the days, not in a leap year.";
  problem.parameters = concat("due ", invoice.day, ' ', term);
  std::string facts = form == 0   ? concat("Invoice of ", from, ", payable within ", term, " days")
                      : form == 1 ? concat("Terms: ", term, " days net. Invoice date: ", from)
                                  : concat("Dated ", from, ", an invoice is to be paid within ", term, " days");
  const auto add = [&](const Day& day, int64_t days) {
    std::string step = concat(date(day.day), " + ", days, " days = ", date_steps(day.day, days));
    if (difficulty >= 3) {
      step += concat("; ", weekday(day.weekday), " + ", days % 7, " = ", weekday(day.weekday + days));
    }
    return step;
  };
  problem.working = add(begin, term);
  const auto move = [&] {
    const Day moved = result.on_workday();
    if (moved.day != result.day) problem.working += ", moved to " + moved.text();
    result = moved;
  };
  if (difficulty >= 3) {
    problem.rules += " A date on a weekend moves to the next Monday, and what follows counts from there.";
    problem.parameters += concat(' ', invoice.weekday);
    move();
  }
  if (difficulty >= 4) {
    facts += concat(form == 1 ? ". Delivery: " : "; delivered on ", date(delivery.day));
    problem.rules += " Days count from the invoice or the delivery, whichever is later.";
    problem.parameters += concat(' ', delivery.day);
    problem.working.insert(0, concat("later: ", delivered_later ? "delivery" : "invoice", "; "));
  }
  if (difficulty == 5) {
    facts += concat(". Unpaid, a first reminder follows ", first, " days after the due date and a second ", second,
                    " days after the first");
    problem.rules += " Reminders move like due dates.";
    problem.parameters += concat(' ', first, ' ', second);
    for (const int64_t days : {first, second}) {
      problem.working += "; " + add(result, days);
      result = result.after(days);
      move();
    }
  }
  const std::string question = difficulty == 5 ? "When is the second reminder?"
                               : form == 1     ? "When is payment due?"
                                               : "Due date?";
  problem.prompt = concat(facts, " (no leap year", difficulty >= 3 ? ", weekends move to Monday). " : "). ", question);
  problem.rules += " Example: 14 March.";
  problem.answer = date(result.day);
  return problem;
}

}  // namespace

Task finance_task() {
  return {.name = "finance",
          .description = "accounts payable: booking codes by the house's chart of accounts, gross amounts, due dates",
          .site = 0x46494e31,
          .kinds = {{"coding", "exact", 7, invoice_coding}, {"due", "exact", 2, due}, {"gross", "numeric", 1, gross}},
          .ungraded = true};
}

}  // namespace tessera::data
