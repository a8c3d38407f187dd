// The recipe of a pipeline: common sections, and a list of stages that each overlay them.
#pragma once

#include "pipeline/config.h"
#include "recipes/config_node.h"

namespace tessera::recipes {

/// Throws ConfigError with file:line, the key and what to set.
[[nodiscard]] pipeline::Pipeline resolve_pipeline(const ConfigNode& node);

}  // namespace tessera::recipes
