// Phases of rollouts in checkpoints: those that are still to be trained on. A part from each dp rank; any layout reads them.
#pragma once

#include <string>

#include "checkpoint/reader.h"
#include "rl/rollouts.h"
#include "trainer/learner.h"

namespace tessera::rl {

/// Adds the phase under `name`. `policy`: the live one. Collective over its world.
void list_phase(const std::string& name, const Phase& phase, const Policy& policy, trainer::RunState& state);
/// This rank's share of the phase `name`, which `values` must hold.
[[nodiscard]] Phase read_phase(const std::string& name, checkpoint::CheckpointReader& reader, const nlohmann::json& values, const Policy& policy);

}  // namespace tessera::rl
