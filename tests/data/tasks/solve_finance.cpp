#include <algorithm>

#include "tests/data/tasks/reading.h"
#include "tests/data/tasks/solvers.h"

namespace tessera::data::solvers {
namespace {

const Table kAccounts = {{"MKT", "online ads|flyers|trade fair|radio|mugs|billboard"},
                         {"TRV", "train tickets|hotel|flights|taxi|airport|car rental"},
                         {"OFF", "printer paper|pens|toner|folders|desk lamps|envelopes"},
                         {"ITE", "laptops|monitors|keyboards|docking|servers|hard drives"},
                         {"SWL", "software|cloud|antivirus|database|video call|backup"},
                         {"LEG", "legal|notary|contract|audit|tax consulting|patent"},
                         {"UTL", "(electricity|water|gas) bill|internet|waste|heating"},
                         {"TRN", "course|training|workshop|exam fees|conference"}};
const Table kOrigins = {{"1", "domestic"}, {"2", "\\bEU\\b"}, {"3", "overseas"}};

std::string coding(const std::string& prompt) {
  const bool several = has(prompt, "largest");
  std::vector<std::pair<double, std::string>> invoices;
  for (const std::string& record : several ? lines_with(prompt, "\\d EUR") : std::vector<std::string>{prompt}) {
    const double net =
        static_cast<double>(number(record, "(\\d+) EUR") * (100 - number_or(record, "less (\\d+)%", 0))) / 100;
    const std::string level = net < 500 ? "A" : net < 5000 ? "B" : "C";
    invoices.emplace_back(-net, look_up(record, kAccounts) + "-" + level + look_up(record, kOrigins));
  }
  std::sort(invoices.begin(), invoices.end());
  std::vector<std::string> codes;
  for (const auto& [net, code] : invoices) codes.push_back(code);
  return listed(codes);
}

std::string gross(const std::string& prompt) {
  if (!has(prompt, "(iscount|off)")) {
    const double net = std::stod(text_of(prompt, "[Nn]et (\\d+) EUR|is (\\d+) EUR net"));
    return shortened(net * (1 + std::stod(text_of(prompt, "(\\d+)%")) / 100)) + " EUR";
  }
  const double left = 1 - std::stod(text_of(prompt, "Discount:? (\\d+)%|(\\d+)% off")) / 100;
  double sum = 0;
  for (const Groups& line : find_all(prompt, "(\\d+) [a-z]+ at (\\d+) EUR, VAT (\\d+)%")) {
    sum += std::stod(line[1]) * std::stod(line[2]) * left * (1 + std::stod(line[3]) / 100);
  }
  const std::string text = decimal(sum, 2);
  return (text.ends_with(".00") ? text.substr(0, text.size() - 3) : text) + " EUR";
}

std::string due(const std::string& prompt) {
  const auto dates = find_all(prompt, kDate);
  Calendar day = Calendar::read(dates[0]);
  const bool workdays = has(prompt, "weekends move");
  if (workdays) day.weekday = index_of(kDayNames, text_of(prompt, kWeekday));
  if (dates.size() > 1) {
    // Later than the invoice, if it comes within a month of it.
    const Calendar delivery = Calendar::read(dates[1]);
    Calendar later = day;
    for (int i = 0; i < 30 && !later.same_date(delivery); ++i) later.step();
    if (later.same_date(delivery)) day = later;
  }
  const auto add = [&](int64_t days) {
    day.step(days);
    if (workdays) day.to_workday();
  };
  add(number(prompt, "within (\\d+) days|Terms: (\\d+) days"));
  if (has(prompt, "second reminder")) {
    add(number(prompt, "first reminder follows (\\d+) days"));
    add(number(prompt, "a second (\\d+) days"));
  }
  return day.text();
}

}  // namespace

std::string solve_finance(const std::string& kind, const std::string& prompt) {
  return kind == "coding" ? coding(prompt) : kind == "gross" ? gross(prompt) : due(prompt);
}

}  // namespace tessera::data::solvers
