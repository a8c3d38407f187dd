#include <algorithm>
#include <tuple>

#include "tests/data/tasks/reading.h"
#include "tests/data/tasks/solvers.h"

namespace tessera::data::solvers {
namespace {

const Table kCategories = {{"AUT", "failed logins|locked accounts|password guesses|expired tokens"},
                           {"NET", "port scans|blocked packets|flooded ports|DNS"},
                           {"MAL", "(trojan|worm|spyware|ransomware) alerts"},
                           {"WEB", "injections|traversals|form floods"},
                           {"DAT", "uploads|downloads|USB|dumps"},
                           {"PRV", "admins|role changes|sudo|key exports"},
                           {"EML", "phishing|spoofed|macro|spam"},
                           {"CFG", "disabled logs|changed firewalls|open shares|stopped agents"}};
const Table kHosts = {{"S", "\\bsrv-"}, {"W", "\\bpc-"}, {"D", "\\bdb-"}, {"N", "\\bgw-"}};

std::string triage(const std::string& prompt) {
  std::vector<std::tuple<int64_t, int64_t, std::string>> alerts;
  for (const std::string& record : lines_with(prompt, "(srv|pc|db|gw)-\\d")) {
    // The count stands alone; the numbers of hosts and times do not.
    const int64_t count = number(record, "(?:^|[: ])(\\d+) [A-Za-z]|x (\\d+),");
    int64_t level = 3 - (count > 9) - (count > 99);
    if (has(record, "\\d\\d:\\d\\d")) {
      const int64_t hour = minutes(text_of(record, "(\\d\\d:\\d\\d)")) / 60;
      if (hour >= 22 || hour < 6) level = std::max<int64_t>(level - 1, 1);
    }
    alerts.emplace_back(level, -count,
                        look_up(record, kCategories) + "-" + look_up(record, kHosts) + std::to_string(level));
  }
  std::sort(alerts.begin(), alerts.end());
  std::vector<std::string> codes;
  for (const auto& [level, count, code] : alerts) codes.push_back(code);
  return listed(codes);
}

std::string score(const std::string& prompt) {
  const std::vector<std::pair<std::string, double>> modifiers = {
      {"public exploit", 1.5},   {"internet-facing", 1.2}, {"no login needed", 0.8}, {"personal data", 0.7},
      {"behind a filter", -0.9}, {"test system", -1.6},    {"patch ready", -0.5},    {"own network segment", -1.1}};
  double highest = 0;
  const auto findings = lines_with(prompt, "\\d\\.\\d");
  for (const std::string& finding : findings) {
    double sum = std::stod(text_of(finding, "(\\d\\.\\d)"));
    for (const auto& [name, value] : modifiers) sum += has(finding, name) ? value : 0;
    highest = std::max(highest, std::clamp(sum, 0.0, 10.0));
  }
  return decimal(std::min(10.0, highest + 0.3 * static_cast<double>(findings.size() - 1)), 1);
}

std::string firewall(const std::string& prompt) {
  const auto rules = find_all(
      prompt, "(\\d+) (allow|deny)(?: (tcp|udp))?(?: ports? (\\d+)(?:-(\\d+))?| all)(?: from 10\\.0\\.(\\d)\\.0/24)?");
  std::vector<std::string> decisions;
  for (const Groups& packet :
       find_all(prompt, "a (?:(tcp|udp) )?packet to port (\\d+)(?: from 10\\.0\\.(\\d)\\.\\d+)?")) {
    for (const Groups& rule : rules) {
      const int64_t port = std::stoll(packet[2]);
      if (!rule[3].empty() && rule[3] != packet[1]) continue;
      if (!rule[6].empty() && rule[6] != packet[3]) continue;
      if (!rule[4].empty() && (port < std::stoll(rule[4]) || port > std::stoll(rule[5].empty() ? rule[4] : rule[5]))) {
        continue;
      }
      decisions.push_back("rule " + rule[1] + " " + rule[2]);
      break;
    }
  }
  return listed(decisions);
}

}  // namespace

std::string solve_security(const std::string& kind, const std::string& prompt) {
  return kind == "triage" ? triage(prompt) : kind == "score" ? score(prompt) : firewall(prompt);
}

}  // namespace tessera::data::solvers
