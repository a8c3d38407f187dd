#include "data/tasks/security.h"

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

struct Category {
  const char* code;
  std::array<const char*, 4> events;
};

constexpr std::array<Category, 8> kCategories = {
    {{"AUT", {"failed logins", "locked accounts", "password guesses", "expired tokens"}},
     {"NET", {"port scans", "blocked packets", "flooded ports", "DNS tunnels"}},
     {"MAL", {"trojan alerts", "worm alerts", "spyware alerts", "ransomware alerts"}},
     {"WEB", {"SQL injections", "script injections", "path traversals", "form floods"}},
     {"DAT", {"large uploads", "mass downloads", "USB copies", "table dumps"}},
     {"PRV", {"new admins", "role changes", "sudo errors", "key exports"}},
     {"EML", {"phishing mails", "spoofed senders", "macro attachments", "spam waves"}},
     {"CFG", {"disabled logs", "changed firewalls", "open shares", "stopped agents"}}}};

struct Host {
  const char* prefix;
  char letter;
};

constexpr std::array<Host, 4> kHosts = {{{"srv", 'S'}, {"pc", 'W'}, {"db", 'D'}, {"gw", 'N'}}};

struct Alert {
  const char* category;
  const char* event;
  Host host;
  int64_t number;
  int64_t count;
  int64_t minute;

  [[nodiscard]] bool night() const { return minute < 6 * 60 || minute >= 22 * 60; }
  [[nodiscard]] int64_t by_count() const { return count >= 100 ? 1 : count >= 10 ? 2 : 3; }
  [[nodiscard]] int64_t priority(bool timed) const {
    return std::max<int64_t>(by_count() - (timed && night() ? 1 : 0), 1);
  }
  [[nodiscard]] std::string code(bool timed) const { return concat(category, '-', host.letter, priority(timed)); }
  [[nodiscard]] std::string steps(bool timed) const {
    const std::string at_night = timed && night() ? concat("; night: ", priority(timed)) : "";
    return concat(event, ": ", category, "; ", host.prefix, ": ", host.letter, "; ", count, ": ", by_count(), at_night);
  }
};

// One alert (1), with the time of day (2); two to four, the most urgent first (3 to 5).
Problem triage(Draw& draw, int64_t difficulty) {
  constexpr Forms kOne = {"Triage this alert: {0}.", "Alert: {0}. Triage code?", "{0}: what is the triage code?"};
  constexpr Forms kSeveral = {"Triage these alerts, most urgent first:\n{0}",
                              "Alerts\n{0}\nTriage codes from the most urgent to the least?",
                              "The queue holds:\n{0}\nGive the triage codes in the order of work."};
  constexpr Forms kAlerts = {"{0} {1} on {2}{3}", "{2}{3}: {0} {1}", "{1} x {0}, host {2}{3}"};
  const bool timed = difficulty >= 2, several = difficulty >= 3;
  std::vector<Alert> alerts;
  for (int64_t i = 0; i < std::max<int64_t>(difficulty - 1, 1); ++i) {
    const Category& category = draw.pick(kCategories);
    const char* event = draw.pick(category.events);
    const Host& host = draw.pick(kHosts);
    const int64_t level = draw.below(3);
    const int64_t count = level == 0 ? draw.between(2, 9) : level == 1 ? draw.between(10, 99) : draw.between(100, 900);
    const int64_t minute =
        draw.below(3) == 0 ? (22 * 60 + draw.below(8 * 60)) % (24 * 60) : draw.between(6 * 60, 22 * 60 - 1);
    alerts.push_back({category.code, event, host, draw.between(1, 60), count, minute});
    const auto same_count = [&](const Alert& other) {
      return &other != &alerts.back() && other.count == alerts.back().count;
    };
    while (std::any_of(alerts.begin(), alerts.end(), same_count)) ++alerts.back().count;
  }
  Problem problem;
  problem.rules = concat(
      "Triage code: AUT logins, NET network, MAL malware, WEB web attacks, DAT data leaving, PRV rights, EML mail, CFG "
      "settings; host srv "
      "S, pc W, db D, gw N; fewer than 10 events 3, 10 to 99 2, 100 and more 1.",
      timed ? " From 22:00 until before 06:00 that digit is 1 lower, but at least 1." : "",
      several ? " Order: lowest digit first, then most events. Example: NET-S1, AUT-W3." : " Example code: AUT-S2.");
  problem.parameters = "triage";
  std::vector<std::string> list, steps, order, codes;
  const char* form = draw.pick(kAlerts);
  for (const Alert& a : alerts) {
    problem.parameters += concat(' ', a.event, ' ', a.host.prefix, ' ', a.count, ' ', timed ? a.minute : 0);
    const std::string host = concat(a.host.prefix, '-', a.number < 10 ? "0" : "", a.number);
    list.push_back(fill_form(form, a.count, a.event, host, timed ? " at " + clock_time(a.minute) : ""));
    steps.push_back(a.steps(timed));
  }
  std::sort(alerts.begin(), alerts.end(), [](const Alert& a, const Alert& b) {
    return a.priority(true) != b.priority(true) ? a.priority(true) < b.priority(true) : a.count > b.count;
  });
  for (const Alert& a : alerts) {
    codes.push_back(a.code(timed));
    order.push_back(concat(a.priority(timed), " (", a.count, ')'));
  }
  if (several) steps.push_back("order: " + join(order));
  problem.prompt = fill_form(draw.pick(several ? kSeveral : kOne), join(list, "\n"));
  problem.working = join(steps, "; ");
  problem.answer = join(codes);
  return problem;
}

struct Modifier {
  const char* name;
  int64_t tenths;
};

constexpr std::array<Modifier, 8> kModifiers = {{{"public exploit", 15},
                                                 {"internet-facing", 12},
                                                 {"no login needed", 8},
                                                 {"personal data", 7},
                                                 {"behind a filter", -9},
                                                 {"test system", -16},
                                                 {"patch ready", -5},
                                                 {"own network segment", -11}}};

std::string with_sign(int64_t tenths) {
  return concat(tenths < 0 ? " - " : " + ", fixed(tenths < 0 ? -tenths : tenths, 1));
}

// A finding with one to three modifiers (1 to 3); a host with two and three findings (4, 5).
Problem score(Draw& draw, int64_t difficulty) {
  constexpr Forms kOne = {"Finding with base score {0}. Risk score?", "Score this finding: base {0}.",
                          "What is the risk score? Base {0}."};
  constexpr Forms kHost = {"A host has these findings:\n{0}\nRisk score of the host?", "Score this host.\n{0}",
                           "Findings on one host\n{0}\nWhat is the host's risk score?"};
  const bool host = difficulty >= 4;
  const int64_t num_findings = host ? difficulty - 2 : 1, num_modifiers = host ? 2 : difficulty;
  Problem problem;
  problem.rules = concat(
      "Risk score: base, plus 1.5 public exploit, 1.2 internet-facing, 0.8 no login needed, 0.7 personal data; minus "
      "0.9 behind "
      "a filter, 1.6 test system, 0.5 patch ready, 1.1 own network segment; not under 0.0 or over 10.0.",
      host ? " A host has its highest score plus 0.3 for each further finding, not over 10.0." : "", " Example: 7.3.");
  problem.parameters = "score";
  std::vector<std::string> findings, steps;
  int64_t highest = 0;
  for (int64_t i = 0; i < num_findings; ++i) {
    const int64_t base = draw.between(20, host ? 70 : 85);
    int64_t sum = base;
    std::vector<std::string> names;
    std::string step = fixed(base, 1);
    for (const Modifier& modifier : draw.several(kModifiers, num_modifiers)) {
      names.push_back(modifier.name);
      step += with_sign(modifier.tenths);
      sum += modifier.tenths;
    }
    const int64_t bounded = std::clamp<int64_t>(sum, 0, 100);
    highest = std::max(highest, bounded);
    findings.push_back(concat(host ? "base " : "", fixed(base, 1), ", ", join(names)));
    std::sort(names.begin(), names.end());  // their order changes nothing
    problem.parameters += concat(' ', base, ' ', join(names));
    steps.push_back(concat(step, " = ", sum < 0 ? "below 0.0" : fixed(sum, 1)));
    if (bounded != sum) steps.push_back("bounded: " + fixed(bounded, 1));
  }
  int64_t result = highest;
  if (host) {
    result = std::min<int64_t>(highest + 3 * (num_findings - 1), 100);
    steps.push_back(concat("highest ", fixed(highest, 1), " + ", num_findings - 1,
                           " x 0.3 = ", fixed(highest + 3 * (num_findings - 1), 1)));
    if (result != highest + 3 * (num_findings - 1)) steps.push_back("bounded: 10.0");
  }
  problem.prompt = fill_form(draw.pick(host ? kHost : kOne), join(findings, "\n"));
  problem.working = join(steps, "; ");
  problem.answer = fixed(result, 1);
  return problem;
}

struct Rule {
  int64_t number;
  bool allow;
  int64_t low;  // ports
  int64_t high;
  int64_t network;   // third number of 10.0.x.0/24; -1: any
  int64_t protocol;  // index into kProtocols; -1: any
};

struct Packet {
  int64_t port;
  int64_t network;
  int64_t protocol;
  int64_t host;

  [[nodiscard]] bool matches(const Rule& rule) const {
    return port >= rule.low && port <= rule.high && (rule.network < 0 || rule.network == network) &&
           (rule.protocol < 0 || rule.protocol == protocol);
  }
};

constexpr std::array<const char*, 2> kProtocols = {"tcp", "udp"};
constexpr std::array<int64_t, 12> kPorts = {22, 25, 53, 80, 110, 123, 143, 443, 993, 3306, 5432, 8080};

// Single ports (1), ranges (2), source networks (3), protocols (4), two packets (5). The last rule matches all.
Problem firewall(Draw& draw, int64_t difficulty) {
  constexpr Forms kForms = {"First match decides: {0}. What about {1}: allowed or denied, and by which rule?",
                            "Rules in order: {0}. Which rule decides on {1}, and how?",
                            "A firewall checks {0}, in this order. What happens to {1}, by which rule?"};
  const bool networks = difficulty >= 3, protocols = difficulty >= 4;
  const int64_t num_rules = difficulty == 1 ? 3 : difficulty + 1, num_packets = difficulty == 5 ? 2 : 1;
  std::vector<Rule> rules;
  std::vector<std::string> list, packets, steps, answers;
  int64_t number = draw.between(1, 30);
  for (const int64_t port : draw.several(kPorts, num_rules - 1)) {
    const bool range = difficulty >= 2 && draw.below(2) == 0;
    Rule rule = {number, draw.below(2) == 0, port, range ? port + draw.between(1, 60) * 10 : port, -1, -1};
    if (networks && draw.below(3) > 0) rule.network = draw.between(1, 3);
    if (protocols && draw.below(3) > 0) rule.protocol = draw.below(2);
    rules.push_back(rule);
    number += draw.between(1, 30);
  }
  rules.push_back({number, draw.below(4) == 0, 0, 65535, -1, -1});
  Problem problem;
  problem.parameters = "firewall";
  for (const Rule& rule : rules) {
    std::string text = concat(rule.number, rule.allow ? " allow" : " deny");
    if (rule.protocol >= 0) text += concat(' ', kProtocols[static_cast<size_t>(rule.protocol)]);
    text += rule.high == 65535      ? " all"
            : rule.low == rule.high ? concat(" port ", rule.low)
                                    : concat(" ports ", rule.low, '-', rule.high);
    if (rule.network >= 0) text += concat(" from 10.0.", rule.network, ".0/24");
    problem.parameters += " " + text;
    list.push_back(text);
  }
  for (int64_t i = 0; i < num_packets; ++i) {
    // Made for one of the rules, so that the last one does not decide always.
    const Rule& aim = rules[static_cast<size_t>(draw.below(num_rules))];
    const int64_t port = aim.high == 65535 ? draw.pick(kPorts) : aim.low + draw.below(aim.high - aim.low + 1);
    const Packet packet = {port, aim.network >= 0 ? aim.network : draw.between(1, 3),
                           aim.protocol >= 0 ? aim.protocol : draw.below(2), draw.between(2, 250)};
    std::string text = concat("a ", protocols ? concat(kProtocols[static_cast<size_t>(packet.protocol)], ' ') : "",
                              "packet to port ", packet.port);
    problem.parameters +=
        concat(" : ", packet.port, ' ', protocols ? packet.protocol : 0, ' ', networks ? packet.network : 0);
    if (networks) text += concat(" from 10.0.", packet.network, '.', packet.host);
    packets.push_back(text);
    const auto found = std::find_if(rules.begin(), rules.end(), [&](const Rule& rule) { return packet.matches(rule); });
    for (auto rule = rules.begin(); rule != found; ++rule) steps.push_back(concat(rule->number, " no"));
    steps.push_back(concat(found->number, " matches: ", found->allow ? "allow" : "deny"));
    answers.push_back(concat("rule ", found->number, found->allow ? " allow" : " deny"));
  }
  problem.rules = concat(
      "Rules are read in order; the first one that matches port, source and protocol decides. Example: rule 20 allow",
      num_packets > 1 ? ", rule 35 deny." : ".");
  problem.prompt = fill_form(draw.pick(kForms), join(list, "; "), join(packets, " and "));
  problem.working = join(steps, "; ");
  problem.answer = join(answers);
  return problem;
}

}  // namespace

Task security_task() {
  return {
      .name = "security",
      .description =
          "security operations: triage codes of alerts, risk scores by the house's table, decisions of a firewall",
      .site = 0x53454331,
      .kinds = {{"triage", "exact", 1, triage}, {"score", "numeric", 1, score}, {"firewall", "choice", 1, firewall}}};
}

}  // namespace tessera::data
