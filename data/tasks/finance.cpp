#include "data/tasks/finance.h"

#include <array>

#include "core/error.h"
#include "data/tasks/draw.h"

namespace tessera::data {
namespace {

using detail::concat;

constexpr uint32_t kSite = 0x46494e31;

struct Account {
  const char* code;
  std::array<const char*, 6> items;
};

constexpr std::array<Account, 8> kAccounts = {{
    {"TRV", {"train tickets", "hotel nights", "flights", "taxi rides", "airport parking", "car rental"}},
    {"OFF", {"printer paper", "pens", "toner cartridges", "folders", "desk lamps", "envelopes"}},
    {"ITE", {"laptops", "monitors", "keyboards", "docking stations", "servers", "hard drives"}},
    {"SWL", {"software licenses", "cloud hosting", "antivirus subscription", "database license", "video call plan",
             "backup service"}},
    {"MKT", {"online ads", "flyers", "trade fair booth", "radio spots", "promotional mugs", "billboard rental"}},
    {"LEG", {"legal advice", "notary fees", "contract review", "audit fees", "tax consulting", "patent filing"}},
    {"UTL", {"electricity bill", "water bill", "gas bill", "internet line", "waste collection", "heating oil"}},
    {"TRN", {"language course", "safety training", "sales workshop", "exam fees", "conference pass", "first aid course"}},
}};

constexpr std::array<const char*, 20> kSuppliers = {
    "Alder Ltd", "Birch & Co", "Cedar AG",  "Delta GmbH", "Elm Supplies", "Fjord AS",  "Grove Inc",  "Harbor LLC", "Iris SA",
    "Juniper BV", "Kestrel",   "Lumen SpA", "Maple Corp", "Nordic AB",    "Oak House", "Pine Works", "Quarry Ltd", "Ridge KG",
    "Summit SE",  "Tarn plc"};

// Approval by net amount: A under 500, B 500 to 4,999, C 5,000 and over. Tax by origin: 1 domestic, 2 EU, 3 other.
Problem coding(Draw& draw) {
  constexpr std::array<const char*, 3> kOrigins = {"domestic", "EU", "overseas"};
  const Account& account = draw.pick(kAccounts);
  const char* item = draw.pick(account.items);
  const int64_t level = draw.below(3);
  const int64_t amount = level == 0   ? draw.between(20, 499)
                         : level == 1 ? draw.between(500, 4999)
                                      : draw.between(5000, 24999);
  const int64_t origin = draw.below(3);
  const char letter = "ABC"[level];
  const char* supplier = draw.pick(kSuppliers);
  const char* origin_name = kOrigins[static_cast<size_t>(origin)];

  Problem problem;
  problem.kind = "coding";
  problem.rules =
      "Booking code: TRV travel, OFF office supplies, ITE hardware, SWL software and online services, MKT advertising, "
      "LEG legal, tax and audit, UTL utilities, TRN training; net under 500 A, 500 to 4999 B, 5000 and over C; domestic "
      "1, EU 2, overseas 3. Example code: TRV-A1.";
  problem.parameters = concat("coding ", item, ' ', amount, ' ', origin);
  switch (draw.below(3)) {
    case 0:
      problem.prompt = concat("Book this invoice: ", supplier, ", ", item, ", ", amount, " EUR, ", origin_name, ".");
      break;
    case 1:
      problem.prompt = concat("Invoice\nSupplier: ", supplier, " (", origin_name, ")\nItem: ", item, "\nNet: ", amount,
                              " EUR\nBooking code?");
      break;
    default:
      problem.prompt = concat(supplier, ", ", origin_name, " supplier, bills ", amount, " EUR for ", item,
                              ". What is the booking code?");
  }
  problem.working = concat(item, ": ", account.code, "; ", amount, " EUR: ", letter, "; ", origin_name, ": ", origin + 1);
  problem.answer = concat(account.code, '-', letter, origin + 1);
  return problem;
}

Problem gross(Draw& draw) {
  constexpr std::array<int64_t, 3> kRates = {5, 10, 20};
  const int64_t rate = draw.pick(kRates);
  const int64_t net = draw.between(2, 48) * 20;
  const int64_t tax = net * rate / 100;
  Problem problem;
  problem.kind = "gross";
  problem.rules = "Gross is net plus VAT. Example: 240 EUR.";
  problem.parameters = concat("gross ", rate, ' ', net);
  problem.prompt = draw.below(2) == 0 ? concat("Net ", net, " EUR, VAT ", rate, "%. Gross amount?")
                                      : concat("An invoice is ", net, " EUR net with ", rate,
                                               "% VAT. How much is payable?");
  problem.working = concat(rate, "% of ", net, " = ", tax, "; ", net, " + ", tax, " = ", net + tax);
  problem.answer = concat(net + tax, " EUR");
  return problem;
}

// The due date lies in the month of the invoice or in the next.
Problem due_date(Draw& draw) {
  struct Month {
    const char* name;
    int64_t days;
  };
  constexpr std::array<Month, 12> kMonths = {{{"January", 31}, {"February", 28}, {"March", 31}, {"April", 30},
                                              {"May", 31}, {"June", 30}, {"July", 31}, {"August", 31},
                                              {"September", 30}, {"October", 31}, {"November", 30}, {"December", 31}}};
  constexpr std::array<int64_t, 4> kTerms = {7, 10, 14, 20};
  const int64_t month = draw.below(12);
  const int64_t day = draw.between(1, 28);
  const int64_t term = draw.pick(kTerms);
  const Month& first = kMonths[static_cast<size_t>(month)];
  const int64_t sum = day + term;
  const bool next = sum > first.days;
  const Month& last = next ? kMonths[static_cast<size_t>((month + 1) % 12)] : first;
  Problem problem;
  problem.kind = "due";
  problem.rules = "The due date is the invoice date plus the days, not in a leap year. Example: 14 March.";
  problem.parameters = concat("due ", month, ' ', day, ' ', term);
  problem.prompt = draw.below(2) == 0
                       ? concat("Invoice of ", day, ' ', first.name, ", payable within ", term, " days. Due date?")
                       : concat("Terms: ", term, " days net. Invoice date: ", day, ' ', first.name,
                                " (not a leap year). When is payment due?");
  problem.working = concat(day, " + ", term, " = ", sum, "; ", first.name, " has ", first.days, " days");
  if (next) problem.working += concat("; ", sum, " - ", first.days, " = ", sum - first.days);
  problem.answer = concat(next ? sum - first.days : sum, ' ', last.name);
  return problem;
}

Problem draw_problem(uint64_t seed, uint64_t index, uint32_t attempt) {
  Draw draw(seed, kSite, index, attempt);
  const int64_t kind = draw.below(10);
  return kind < 7 ? coding(draw) : kind < 9 ? due_date(draw) : gross(draw);
}

}  // namespace

Task finance_task() {
  return {"finance", "accounts payable: booking codes by the house's chart of accounts, gross amounts, due dates",
          draw_problem};
}

}  // namespace tessera::data
