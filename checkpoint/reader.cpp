#include "checkpoint/reader.h"

#include <algorithm>

#include "core/error.h"

namespace tessera::checkpoint {

CheckpointReader::CheckpointReader(std::filesystem::path folder, Manifest manifest)
    : folder_(std::move(folder)), manifest_(std::move(manifest)) {}

bool CheckpointReader::has(const std::string& kind, const std::string& name) const {
  const auto found = manifest_.tensors.find(kind);
  return found != manifest_.tensors.end() && found->second.count(name) > 0;
}

void CheckpointReader::require(const std::string& kind, const std::string& name) const {
  if (!has(kind, name))
    throw CheckpointError(folder_.string() + " holds no " + kind + " of '" + name + "'; it belongs to another model or recipe");
}

const SafetensorsFile& CheckpointReader::file(const std::string& name) {
  auto& opened = open_[name];
  if (!opened) opened = std::make_unique<SafetensorsFile>(folder_ / name);
  return *opened;
}

void CheckpointReader::read(const std::string& kind, const std::string& name, int64_t begin, at::Tensor out) {
  require(kind, name);
  const int64_t end = begin + out.numel();
  int64_t covered = begin;
  for (const StoredRange& range : manifest_.tensors.at(kind).at(name)) {
    const int64_t from = std::max(covered, range.begin), to = std::min(end, range.begin + range.count);
    if (from >= to || from != covered) continue;
    const SafetensorsFile& source = file(range.file);
    out.narrow(0, from - begin, to - from).copy_(source.view(range.key).narrow(0, from - range.begin, to - from));
    source.release(range.key);
    covered = to;
  }
  if (covered < end)
    throw CheckpointError(detail::concat(folder_.string(), ": ", kind, " of '", name, "' lacks elements ", covered, "..", end));
}

}  // namespace tessera::checkpoint
