// From a recipe's tree to a recipe: what single runs and the stages of a pipeline share.
#pragma once

#include <string>

#include "recipes/config_node.h"
#include "recipes/recipe.h"

namespace tessera::recipes {

/// Puts file:line before a message that opens with a key ("optimizer.lr = ..."); `prefix` ("stages.NAME.") goes before the key.
[[nodiscard]] std::string located(const ConfigNode& root, const std::string& message, const std::string& prefix = "");

/// A single run. `prefix` as above. Throws ConfigError.
[[nodiscard]] Recipe resolve(const ConfigNode& node, const std::string& prefix = "");

/// Writes out a recipe after a change.
void write_out(Recipe& recipe);

}  // namespace tessera::recipes
