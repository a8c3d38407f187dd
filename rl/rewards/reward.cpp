#include "rl/rewards/reward.h"

#include <cmath>

#include "core/error.h"
#include "core/text.h"
#include "rl/rewards/kinds.h"
#include "rl/rewards/language.h"

namespace tessera::rl {
namespace {

struct Kind {
  const char* name;
  std::unique_ptr<Reward> (*make)(const RewardConfig&);
};
constexpr Kind kKinds[] = {
    {"numeric", make_numeric_reward}, {"exact", make_exact_reward},
    {"choice", make_choice_reward},   {"set", make_set_reward},
    {"json", make_json_reward},       {"regex", make_regex_reward},
    {"format", make_format_reward},   {"language", make_language_reward},
    {"length", make_length_reward},   {"code", make_code_reward},
    {"program", make_program_reward}, {"plugin", make_plugin_reward},
};

const Kind* find_kind(const std::string& name) {
  for (const Kind& kind : kKinds)
    if (kind.name == name) return &kind;
  return nullptr;
}

std::string unknown_kind(const std::string& name) {
  std::vector<std::string> names;
  for (const Kind& kind : kKinds) names.emplace_back(kind.name);
  const std::string near = nearest_name(name, names);
  return detail::concat("rl.rewards: there is no reward '", name, "'",
                        near.empty() ? "" : "; did you mean " + near + "?", "; use ", join(names));
}

}  // namespace

void RewardConfig::validate() const {
  if (find_kind(name) == nullptr) throw ConfigError(unknown_kind(name));
  const auto require = [&](bool good, const auto&... what) {
    if (!good) throw ConfigError(detail::concat("rl.rewards: ", name, ": ", what...));
  };
  require(std::isfinite(weight), "weight must be a finite number");
  require(std::isfinite(tolerance) && tolerance >= 0 && tolerance < 1, "tolerance = ", tolerance,
          " must lie in 0..1; it is relative");
  require(!field.empty(), "field must name the sample's field that holds what is right");
  require(std::isfinite(deadline_seconds) && deadline_seconds > 0,
          "deadline_seconds = ", deadline_seconds, " must be above 0");
  if (name == "format") {
    const std::vector<std::string> patterns = {"think", "think-answer", "boxed"};
    bool known = pattern.empty();
    for (const std::string& candidate : patterns) known = known || candidate == pattern;
    require(known, "pattern '", pattern, "' is unknown; use ", join(patterns));
  } else if (name == "language") {
    bool known = false;
    for (const std::string& code : known_languages()) known = known || code == language;
    require(known, "language '", language, "' is unknown; use one of ", join(known_languages()));
  } else if (name == "length") {
    require(target_length >= 0 && target_length < max_length, "target_length = ", target_length,
            " must not be negative and be below max_length = ", max_length);
  } else if (name == "program") {
    require(!command.empty() && !command[0].empty(),
            "set command to the program and its arguments");
  } else if (name == "plugin") {
    require(!library.empty(), "set library to a shared library's path");
  } else if (name == "code") {
    require(memory_mb >= 16, "memory_mb = ", memory_mb, " must be at least 16");
    require(processes >= 1 && processes <= 4096, "processes = ", processes, " must lie in 1..4096");
    require(file_mb >= 1 && file_mb <= 65536, "file_mb = ", file_mb, " must lie in 1..65536");
    require(deadline_seconds <= 86400, "deadline_seconds = ", deadline_seconds,
            " must be at most a day");
  }
}

std::unique_ptr<Reward> make_reward(const RewardConfig& config) {
  config.validate();
  return find_kind(config.name)->make(config);
}

}  // namespace tessera::rl
