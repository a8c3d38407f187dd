// A recipe: one YAML file, one complete run. schema.h lists its keys once; reading, writing and comparing go through it.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "pipeline/config.h"
#include "rl/config.h"
#include "rl/preference.h"
#include "trainer/config.h"

namespace tessera::recipes {

struct Recipe {
  trainer::TrainerConfig config;
  std::optional<rl::RlConfig> rl;    // of task: grpo
  std::optional<rl::DpoConfig> dpo;  // of task: dpo, which may leave it out
  /// The resolved recipe: every key with its value.
  std::string yaml;
  /// The same as flat keys ("optimizer.lr"), for comparing runs.
  std::map<std::string, std::string> keys;
};

/// Reads, merges, checks and resolves. Throws ConfigError with file:line, the key and what to set.
[[nodiscard]] Recipe load_recipe(const std::filesystem::path& path, const std::vector<std::string>& overrides);

/// The same of a recipe that may be a pipeline's.
[[nodiscard]] std::variant<Recipe, pipeline::Pipeline> load_run_or_pipeline(const std::filesystem::path& path, const std::vector<std::string>& overrides);

/// From text, without base or overrides; `name` opens messages.
[[nodiscard]] Recipe parse_recipe(const std::string& text, const std::string& name);
[[nodiscard]] pipeline::Pipeline parse_pipeline(const std::string& text, const std::string& name);

}  // namespace tessera::recipes
