// The safetensors format: an 8-byte little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, raw
// little-endian data. Reading maps the file; every offset is checked against the shape and the file before it is used.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"

namespace tessera::checkpoint {

struct TensorInfo {
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> shape;
  size_t begin = 0, end = 0;  // byte range behind the header
};

/// Header of a safetensors file held in memory. Throws CheckpointError, naming `source` and the tensor, for anything
/// malformed: lying lengths, overlaps, unknown dtypes, sizes that do not fit shapes.
struct SafetensorsHeader {
  std::map<std::string, TensorInfo> tensors;
  std::map<std::string, std::string> metadata;
  size_t data_offset = 0;
  static SafetensorsHeader parse(std::string_view file, const std::string& source);
};

class SafetensorsFile final {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  [[nodiscard]] const SafetensorsHeader& header() const { return header_; }
  [[nodiscard]] bool contains(const std::string& name) const { return header_.tensors.count(name) > 0; }
  /// A view of the mapped bytes in the file's dtype: read only, alive as long as this object.
  [[nodiscard]] at::Tensor view(const std::string& name) const;
  /// The tensor has been read: its bytes need not stay in memory.
  void release(const std::string& name) const;
  [[nodiscard]] const std::filesystem::path& path() const { return file_.path(); }

 private:
  MappedFile file_;
  SafetensorsHeader header_;
};

/// The tensors of a model folder: model.safetensors, or the shards that model.safetensors.index.json lists.
class SafetensorsFolder final {
 public:
  /// `stem` is "model" or "adapter_model".
  SafetensorsFolder(const std::filesystem::path& folder, const std::string& stem);

  [[nodiscard]] std::vector<std::string> names() const;
  [[nodiscard]] const SafetensorsFile* find(const std::string& name) const;
  /// A content hash over all files.
  [[nodiscard]] std::string hash() const;

 private:
  std::filesystem::path folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t> where_;
};

/// One tensor to write; `make` is called when its turn comes, so that only one is held at a time.
struct TensorToWrite {
  std::string name;
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> shape;
  std::function<at::Tensor()> make;
};

/// Writes one safetensors file and syncs it. Returns the content hash of the whole file.
std::string write_safetensors(const std::filesystem::path& path, const std::vector<TensorToWrite>& tensors,
                              const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

/// Writes `stem`.safetensors, or shards of at most `shard_bytes` with an index, into an existing folder.
void write_safetensors_folder(const std::filesystem::path& folder, const std::string& stem,
                              const std::vector<TensorToWrite>& tensors, int64_t shard_bytes = int64_t{5} << 30);

}  // namespace tessera::checkpoint
