#include "checkpoint/writer.h"

#include <cstdio>

#include "checkpoint/manifest.h"
#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "parallel/text_exchange.h"

namespace tessera::checkpoint {

namespace {

using nlohmann::json;

std::string shard_name(int rank, int size) {
  char name[64];
  std::snprintf(name, sizeof name, "shard-%05d-of-%05d.safetensors", rank, size);
  return name;
}

/// Runs `body`, then lets all ranks know how it went: either all go on or all throw.
template <typename Body>
std::vector<std::string> together(parallel::Communicator& world, const std::string& what, const Body& body) {
  json report;
  try {
    report["result"] = body();
  } catch (const std::exception& error) {
    report["error"] = error.what();
  }
  std::vector<std::string> results;
  for (const std::string& text : parallel::all_gather_text(world, report.dump())) {
    const json other = json::parse(text);
    if (other.contains("error"))
      throw CheckpointError(what + ": rank " + std::to_string(results.size()) + ": " + other["error"].get<std::string>());
    results.push_back(other["result"].get<std::string>());
  }
  return results;
}

json write_shard(const std::filesystem::path& folder, const std::vector<OwnedRange>& ranges, parallel::Communicator& world) {
  const std::string file = shard_name(world.rank(), world.size());
  std::vector<TensorToWrite> tensors;
  json stored = json::array();
  for (const auto& range : ranges) {
    const std::string key = range.kind + "/" + range.name + "/" + std::to_string(range.begin);
    tensors.push_back({key, range.data.scalar_type(), {range.data.numel()}, [data = range.data] { return data; }});
    stored.push_back({range.kind, range.name, range.begin, range.data.numel(), key});
  }
  const std::string hash = write_safetensors(folder / file, tensors);
  return {{"file", file}, {"hash", hash}, {"ranges", stored}};
}

Manifest make_manifest(int64_t step, const json& state, const std::vector<std::string>& shards) {
  Manifest manifest;
  manifest.step = step;
  manifest.state = state;
  for (const auto& text : shards) {
    const json shard = json::parse(text);
    const std::string file = shard["file"];
    manifest.files[file] = shard["hash"];
    for (const auto& range : shard["ranges"])
      manifest.tensors[range[0]][range[1]].push_back({range[2], range[3], file, range[4]});
  }
  return manifest;
}

}  // namespace

void write_checkpoint(const std::filesystem::path& folder, int64_t step, const std::vector<OwnedRange>& ranges,
                      const json& state, parallel::Communicator& world) {
  const auto busy = world.announce("saving checkpoint");
  const auto target = folder / step_folder_name(step), temporary = folder / ("." + step_folder_name(step) + ".tmp");
  const std::string what = "cannot write checkpoint " + target.string();
  const bool first = world.rank() == 0;
  try {
    together(world, what, [&] {
      if (first) {
        make_directories(folder);
        std::filesystem::remove_all(temporary);
        make_directories(temporary);
      }
      return std::string();
    });
    const auto shards = together(world, what, [&] { return write_shard(temporary, ranges, world).dump(); });
    together(world, what, [&] {
      if (first) {
        write_file_atomically(temporary / "manifest.json", make_manifest(step, state, shards).dump());
        std::filesystem::remove_all(target);  // a damaged or older one of the same step
        std::filesystem::rename(temporary, target);
        sync_directory(folder);
      }
      return std::string();
    });
  } catch (const CheckpointError&) {
    std::error_code ignored;
    if (first) std::filesystem::remove_all(temporary, ignored);
    throw;
  }
}

void apply_retention(const std::filesystem::path& folder, int64_t keep) {
  const auto all = list_checkpoints(folder);
  for (size_t i = static_cast<size_t>(keep); i < all.size(); ++i) {
    std::error_code error;
    std::filesystem::remove(all[i] / "manifest.json", error);  // first: without it the rest does not count
    std::filesystem::remove_all(all[i], error);
    if (error) log::warn("cannot delete the old checkpoint ", all[i].string(), ": ", error.message());
  }
  // Leftovers of saves and deletions that a kill cut short.
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind(".step-", 0) == 0 || (name.rfind("step-", 0) == 0 && !std::filesystem::exists(entry.path() / "manifest.json"))) {
      std::error_code ignored;
      std::filesystem::remove_all(entry.path(), ignored);
    }
  }
}

}  // namespace tessera::checkpoint
