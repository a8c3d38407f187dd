#include "data/tasks/finance_coding.h"

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

struct Account {
  const char* code;
  std::array<const char*, 6> items;
};

constexpr std::array<Account, 8> kAccounts = {{
    {"TRV", {"train tickets", "hotel nights", "flights", "taxi rides", "airport parking", "car rental"}},
    {"OFF", {"printer paper", "pens", "toner cartridges", "folders", "desk lamps", "envelopes"}},
    {"ITE", {"laptops", "monitors", "keyboards", "docking stations", "servers", "hard drives"}},
    {"SWL",
     {"software licenses", "cloud hosting", "antivirus subscription", "database license", "video call plan",
      "backup service"}},
    {"MKT", {"online ads", "flyers", "trade fair booth", "radio spots", "promotional mugs", "billboard rental"}},
    {"LEG", {"legal advice", "notary fees", "contract review", "audit fees", "tax consulting", "patent filing"}},
    {"UTL", {"electricity bill", "water bill", "gas bill", "internet line", "waste collection", "heating oil"}},
    {"TRN",
     {"language course", "safety training", "sales workshop", "exam fees", "conference pass", "first aid course"}},
}};

constexpr std::array<const char*, 20> kSuppliers = {
    "Alder Ltd",  "Birch & Co", "Cedar AG",   "Delta GmbH", "Elm Supplies", "Fjord AS",   "Grove Inc",
    "Harbor LLC", "Iris SA",    "Juniper BV", "Kestrel",    "Lumen SpA",    "Maple Corp", "Nordic AB",
    "Oak House",  "Pine Works", "Quarry Ltd", "Ridge KG",   "Summit SE",    "Tarn plc"};

constexpr std::array<const char*, 3> kOrigins = {"domestic", "EU", "overseas"};

// Approval by net amount: A under 500, B 500 to 4,999, C 5,000 and over. Tax by origin: 1 domestic, 2 EU, 3 other.
struct Invoice {
  const char* account;
  const char* item;
  int64_t amount;
  int64_t origin;
  const char* supplier;
  int64_t discount = 0;  // percent

  [[nodiscard]] const char* origin_name() const { return kOrigins[static_cast<size_t>(origin)]; }
  [[nodiscard]] int64_t net() const { return amount * (100 - discount) / 100; }
  [[nodiscard]] char level() const { return net() < 500 ? 'A' : net() < 5000 ? 'B' : 'C'; }
  [[nodiscard]] std::string code() const { return concat(account, '-', level(), origin + 1); }
  [[nodiscard]] std::string steps() const {
    const std::string less = discount > 0 ? concat(amount, " - ", discount, "% = ", net()) : concat(amount);
    return concat(item, ": ", account, "; ", less, " EUR: ", level(), "; ", origin_name(), ": ", origin + 1);
  }
};

Invoice draw_invoice(Draw& draw) {
  const Account& account = draw.pick(kAccounts);
  const char* item = draw.pick(account.items);
  const int64_t level = draw.below(3);
  const int64_t amount = level == 0   ? draw.between(20, 499)
                         : level == 1 ? draw.between(500, 4999)
                                      : draw.between(5000, 24999);
  const int64_t origin = draw.below(3);
  return {account.code, item, amount, origin, draw.pick(kSuppliers)};
}

// Round amounts, so that what is left after the discount is whole.
void draw_discount(Draw& draw, Invoice& invoice) {
  constexpr std::array<int64_t, 3> kDiscounts = {5, 10, 20};
  invoice.amount = divide_up(invoice.amount, 20) * 20;
  invoice.discount = draw.pick(kDiscounts);
}

constexpr const char* kRules =
    "Booking code: TRV travel, OFF office supplies, ITE hardware, SWL software and online services, MKT advertising, "
    "LEG legal, tax and audit, UTL utilities, TRN training; net under 500 A, 500 to 4999 B, 5000 and over C; domestic "
    "1, EU 2, overseas 3.";

Problem code_of_one(Draw& draw, bool with_discount) {
  Invoice invoice = draw_invoice(draw);
  const int64_t form = draw.below(3);
  Problem problem;
  problem.rules = kRules;
  std::string amount = concat(invoice.amount, " EUR");
  if (with_discount) {
    draw_discount(draw, invoice);
    amount = concat(invoice.amount, " EUR less ", invoice.discount, "% discount");
    problem.rules += " Net is what is left after the discount.";
  }
  problem.rules += " Example code: TRV-A1.";
  problem.parameters = concat("coding ", invoice.item, ' ', invoice.amount, ' ', invoice.origin);
  if (with_discount) problem.parameters += concat(' ', invoice.discount);
  switch (form) {
    case 0:
      problem.prompt = concat("Book this invoice: ", invoice.supplier, ", ", invoice.item, ", ", amount, ", ",
                              invoice.origin_name(), ".");
      break;
    case 1:
      problem.prompt =
          concat("Invoice\nSupplier: ", invoice.supplier, " (", invoice.origin_name(), ")\nItem: ", invoice.item,
                 with_discount ? "\nAmount: " : "\nNet: ", amount, "\nBooking code?");
      break;
    default:
      problem.prompt = concat(invoice.supplier, ", ", invoice.origin_name(), " supplier, bills ", amount, " for ",
                              invoice.item, ". What is the booking code?");
  }
  problem.working = invoice.steps();
  problem.answer = invoice.code();
  return problem;
}

// Several invoices, the largest net amount first.
Problem code_of_several(Draw& draw, int64_t count) {
  const auto suppliers = draw.several(kSuppliers, count);
  std::vector<Invoice> invoices;
  for (const char* supplier : suppliers) {
    Invoice invoice = draw_invoice(draw);
    invoice.supplier = supplier;
    draw_discount(draw, invoice);
    const auto same_net = [&](const Invoice& other) { return other.net() == invoice.net(); };
    while (std::any_of(invoices.begin(), invoices.end(), same_net)) invoice.amount += 20;
    invoices.push_back(invoice);
  }
  Problem problem;
  problem.rules =
      concat(kRules, " Net is what is left after the discount. Order: the largest net first. Example: LEG-C2, TRV-A1.");
  problem.parameters = "coding";
  const int64_t form = draw.below(3);
  std::string records;
  for (const Invoice& i : invoices) {
    problem.parameters += concat(' ', i.item, ' ', i.amount, ' ', i.origin, ' ', i.discount);
    const std::string amount = concat(i.amount, " EUR less ", i.discount, '%');
    if (form == 0) records += concat('\n', i.supplier, ", ", i.item, ", ", amount, ", ", i.origin_name());
    if (form == 1) records += concat("\n- ", i.item, " from ", i.supplier, " (", i.origin_name(), "), ", amount);
    if (form == 2) records += concat('\n', i.supplier, " (", i.origin_name(), "): ", amount, " for ", i.item);
  }
  problem.prompt = form == 0 ? "Book these invoices, the largest net amount first:" + records
                   : form == 1
                       ? "Invoices\n" + records.substr(1) + "\nBooking codes, from the largest net to the smallest?"
                       : concat("Today's post, ", count, " invoices:", records,
                                "\nGive the booking codes in the order of net, largest first.");
  for (const Invoice& i : invoices) problem.working += concat(i.steps(), "; code ", i.code(), "; ");
  std::sort(invoices.begin(), invoices.end(), [](const Invoice& a, const Invoice& b) { return a.net() > b.net(); });
  std::vector<std::string> order, codes;
  for (const Invoice& i : invoices) {
    order.push_back(concat(i.net()));
    codes.push_back(i.code());
  }
  problem.working += "order: " + join(order, " > ");
  problem.answer = join(codes);
  return problem;
}

}  // namespace

Problem invoice_coding(Draw& draw, int64_t difficulty) {
  return difficulty <= 2 ? code_of_one(draw, difficulty == 2) : code_of_several(draw, difficulty - 1);
}

}  // namespace tessera::data
