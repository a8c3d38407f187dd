// Finding the checkpoint to go on from, and refusing when the run has changed under it.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "checkpoint/manifest.h"
#include "parallel/communicator.h"

namespace tessera::trainer {

struct ResumePoint {
  std::filesystem::path folder;
  checkpoint::Manifest manifest;
};

/// Collective. `resume`: "auto" takes the newest checkpoint of `checkpoints` that is whole, warning about damaged ones;
/// "never" none; anything else is the folder of one checkpoint, which must be whole. Rank 0 verifies for all.
[[nodiscard]] std::optional<ResumePoint> find_resume_point(const std::filesystem::path& checkpoints, const std::string& resume,
                                                           parallel::Communicator& world);

/// Whether a recipe's key changes neither the model nor what it sees.
[[nodiscard]] bool is_harmless(const std::string& key);

/// Throws ConfigError, naming the key, if anything but harmless keys changed since the checkpoint was written.
void check_resumable(const nlohmann::json& state, const std::map<std::string, std::string>& recipe, const std::string& data_hash,
                     const std::string& base_hash, const std::string& checkpoint);

}  // namespace tessera::trainer
