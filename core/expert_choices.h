// The experts that routers have chosen, for another pass over the same tokens to take them again. Holds no tensors.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

namespace tessera {

/// By layer: [tokens, K] experts, of tokens one after the other; -1 for a token that has no choice.
using ExpertChoices = std::map<int64_t, std::vector<int16_t>>;

/// Appends the choices for further tokens.
inline void append_choices(ExpertChoices& to, const ExpertChoices& from) {
  for (const auto& [layer, rows] : from) to[layer].insert(to[layer].end(), rows.begin(), rows.end());
}

}  // namespace tessera
