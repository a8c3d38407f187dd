// Reading a checkpoint into any layout: each rank asks for the flat ranges it needs.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "checkpoint/manifest.h"
#include "checkpoint/safetensors.h"

namespace tessera::checkpoint {

class CheckpointReader final {
 public:
  /// Opens a verified checkpoint (see read_and_verify). `manifest` may come from another rank's verification.
  CheckpointReader(std::filesystem::path folder, Manifest manifest);

  [[nodiscard]] const Manifest& manifest() const { return manifest_; }
  [[nodiscard]] bool has(const std::string& kind, const std::string& name) const;
  /// Throws CheckpointError, naming the tensor, when it is not there.
  void require(const std::string& kind, const std::string& name) const;
  /// Reads no other bytes than those. Fills `out` [count], of any dtype, with elements [begin, begin + count) of the flattened tensor. Throws
  /// CheckpointError, naming the tensor, when the stored ranges do not cover it.
  void read(const std::string& kind, const std::string& name, int64_t begin, at::Tensor out);

 private:
  const SafetensorsFile& file(const std::string& name);

  std::filesystem::path folder_;
  Manifest manifest_;
  std::map<std::string, std::unique_ptr<SafetensorsFile>> open_;
};

}  // namespace tessera::checkpoint
