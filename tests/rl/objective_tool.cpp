// `objective_tool`: JSONL on standard input, {"kind": "loss", "config", "denominators", "batch", "log_probs"} to {"loss", "derivatives",
// "statistics"} and {"kind": "advantages", "rewards", "usable", "group_size", "baseline", "scale"} to {"advantages"}, for
// tests/parity/objectives_parity.py.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "rl/advantages.h"
#include "rl/objectives.h"

namespace tessera::rl {
namespace {

using nlohmann::json;

json loss_of(const json& in) {
  const json& c = in.at("config");
  const PolicyConfig config{c.at("objective"), c.at("clip_low"), c.at("clip_high"), c.at("kl_coefficient"), c.at("importance_cap"), c.at("max_new_tokens")};
  const json &d = in.at("denominators"), &b = in.at("batch");
  const PolicyBatch batch{b.at("lengths"), b.at("advantages"), b.at("old"), b.at("reference"), b.at("rollout")};
  const auto log_probs = in.at("log_probs").get<std::vector<float>>();
  std::vector<float> derivatives(log_probs.size());
  PolicyStatistics s;
  const double loss = policy_loss(config, {d.at("rollouts"), d.at("tokens")}, batch, log_probs.data(), derivatives.data(), s);
  return {{"loss", loss}, {"derivatives", derivatives},
          {"statistics", {{"tokens", s.tokens}, {"clipped", s.clipped}, {"kl_reference", s.kl_reference}, {"kl_rollout", s.kl_rollout}}}};
}

json advantages_of(const json& in) {
  const AdvantageConfig config{in.at("baseline"), in.at("scale")};
  return {{"advantages", advantages(in.at("rewards"), in.at("usable"), in.at("group_size"), config)}};
}

}  // namespace
}  // namespace tessera::rl

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    const auto in = nlohmann::json::parse(line);
    std::cout << (in.at("kind") == "loss" ? tessera::rl::loss_of(in) : tessera::rl::advantages_of(in)).dump() << '\n';
  }
  return 0;
}
