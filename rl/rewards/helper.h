// The hidden commands: rewards that run foreign code start this executable anew with one of them.
// Whoever makes such rewards calls run_helper first thing in main(), before threads and MPI.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace tessera::rl {

/// Runs "reward-host LIBRARY" or "sandbox-run" and returns the exit status; nullopt when argv names
/// neither.
[[nodiscard]] std::optional<int> run_helper(int argc, char** argv);

/// What starts this executable with the given words.
[[nodiscard]] std::vector<std::string> helper_command(std::vector<std::string> words);

}  // namespace tessera::rl
