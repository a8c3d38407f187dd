// Routing replay: the choices of experts for all rollouts of a rank as one list a layer, to be sent or saved.
#pragma once

#include <cstdint>
#include <vector>

#include "rl/rollouts.h"

namespace tessera::rl {

/// Of the rollouts that train, in their order: a prompt's, which neighbours share, once and then their own. Empty where none are recorded.
[[nodiscard]] ExpertChoices pack_choices(const std::vector<Rollout>& rollouts);
/// Tokens of such a list.
[[nodiscard]] int64_t count_packed(const std::vector<Rollout>& rollouts);
/// Gives the rollouts what pack_choices made of them, with `per_token` experts a token.
void unpack_choices(const ExpertChoices& lists, int64_t per_token, std::vector<Rollout>& rollouts);

/// Every rank of the pipeline gets the choices of the layers that it trains, of which it has not recorded all. Collective over the axis
/// "pp" of the policy's mesh.
void exchange_choices(const Policy& policy, std::vector<Rollout>& rollouts);

/// The layers with experts that generation goes through on this rank.
[[nodiscard]] std::vector<int64_t> recorded_layers(const Policy& policy);
[[nodiscard]] int64_t experts_per_token(const Policy& policy);

}  // namespace tessera::rl
