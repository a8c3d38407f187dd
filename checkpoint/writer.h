// Writing a checkpoint from all ranks: every rank its shard, rank 0 the manifest, then one rename into place.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace tessera::checkpoint {

/// This rank's elements [begin, begin + data.numel()) of the flattened tensor `name`.
struct OwnedRange {
  std::string kind, name;
  int64_t begin = 0;
  at::Tensor data;  // [count] contiguous, float32 or bfloat16
};

/// Collective. Writes `folder`/step-XXXXXXXX atomically: into a hidden sibling first, synced, renamed, parent synced. If a
/// rank cannot write, every rank throws CheckpointError with that rank's reason and nothing is left behind.
void write_checkpoint(const std::filesystem::path& folder, int64_t step, const std::vector<OwnedRange>& ranges,
                      const nlohmann::json& state, parallel::Communicator& world);

/// Deletes all but the newest `keep` checkpoints; call on one rank. A kill in the middle leaves folders without manifest.
void apply_retention(const std::filesystem::path& folder, int64_t keep);

}  // namespace tessera::checkpoint
