// A checkpoint on disk: RUN/checkpoints/step-00000120/ with one safetensors shard a rank and manifest.json, written last.
// The manifest lists, per tensor name and kind, which flat ranges lie where, so that reading can reshard to any layout.
// A folder without a valid manifest does not exist.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tessera::checkpoint {

/// Elements [begin, begin + count) of the flattened tensor `name`, stored as tensor `key` of `file`.
struct StoredRange {
  int64_t begin = 0, count = 0;
  std::string file, key;
};

struct Manifest {
  int64_t step = 0;
  /// What the writer wants back: recipe, hashes, mesh, sampler position. Free form.
  nlohmann::json state;
  /// Kind ("weight", "exp_avg", "exp_avg_sq") and tensor name to its ranges, by begin.
  std::map<std::string, std::map<std::string, std::vector<StoredRange>>> tensors;
  /// File to content hash.
  std::map<std::string, std::string> files;

  [[nodiscard]] std::string dump() const;
  /// Throws CheckpointError when the text is damaged (it carries its own hash) or of another format version.
  static Manifest parse(const std::string& text, const std::string& source);
};

/// Reads and checks manifest and files. Throws CheckpointError naming what is wrong.
[[nodiscard]] Manifest read_and_verify(const std::filesystem::path& folder);

/// "step-00000120".
[[nodiscard]] std::string step_folder_name(int64_t step);

/// Complete-looking step folders (those with a manifest) of a checkpoints folder, newest first.
[[nodiscard]] std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& folder);

}  // namespace tessera::checkpoint
