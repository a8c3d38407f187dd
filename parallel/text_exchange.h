// Text between ranks, for reports and agreement outside the hot path.
#pragma once

#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace tessera::parallel {

/// Collective. Every rank's text, by rank.
[[nodiscard]] std::vector<std::string> all_gather_text(Communicator& group, const std::string& text);

/// Collective. Rank 0's text on every rank.
[[nodiscard]] std::string broadcast_text(Communicator& group, const std::string& text);

}  // namespace tessera::parallel
