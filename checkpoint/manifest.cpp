#include "checkpoint/manifest.h"

#include <algorithm>
#include <cstdio>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"

namespace tessera::checkpoint {

namespace {
using nlohmann::json;
constexpr int kFormatVersion = 1;
}  // namespace

std::string Manifest::dump() const {
  json body = {{"format", "tessera-checkpoint"}, {"version", kFormatVersion}, {"step", step}, {"state", state}, {"files", files}};
  json& list = body["tensors"] = json::object();
  for (const auto& [kind, names] : tensors)
    for (const auto& [name, ranges] : names)
      for (const auto& range : ranges)
        list[kind][name].push_back({{"begin", range.begin}, {"count", range.count}, {"file", range.file}, {"key", range.key}});
  body["checksum"] = hash_bytes(body.dump());
  return body.dump(1) + "\n";
}

Manifest Manifest::parse(const std::string& text, const std::string& source) {
  json body = json::parse(text, nullptr, false);
  if (body.is_discarded() || !body.is_object() || !body.contains("checksum"))
    throw CheckpointError(source + ": not a checkpoint manifest (cut short or damaged)");
  const json checksum = body["checksum"];
  body.erase("checksum");
  if (!checksum.is_string() || checksum.get<std::string>() != hash_bytes(body.dump()))
    throw CheckpointError(source + ": damaged (its checksum does not fit)");
  try {
    if (body.at("format") != "tessera-checkpoint" || body.at("version") != kFormatVersion)
      throw CheckpointError(source + ": of another format version; use the Tessera version that wrote it");
    Manifest manifest;
    manifest.step = body.at("step").get<int64_t>();
    manifest.state = body.at("state");
    manifest.files = body.at("files").get<std::map<std::string, std::string>>();
    for (const auto& [kind, names] : body.at("tensors").items()) {
      for (const auto& [name, ranges] : names.items()) {
        auto& list = manifest.tensors[kind][name];
        for (const auto& range : ranges)
          list.push_back({range.at("begin").get<int64_t>(), range.at("count").get<int64_t>(),
                          range.at("file").get<std::string>(), range.at("key").get<std::string>()});
        std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
      }
    }
    return manifest;
  } catch (const json::exception& error) {
    throw CheckpointError(source + ": malformed manifest: " + error.what());
  }
}

Manifest read_and_verify(const std::filesystem::path& folder) {
  const auto path = folder / "manifest.json";
  if (!std::filesystem::exists(path)) throw CheckpointError(folder.string() + " is no checkpoint: it has no manifest.json");
  Manifest manifest = Manifest::parse(read_text_file(path), path.string());
  for (const auto& [file, hash] : manifest.files) {
    if (!std::filesystem::exists(folder / file)) throw CheckpointError((folder / file).string() + " is missing");
    if (hash_file(folder / file) != hash) throw CheckpointError((folder / file).string() + " is damaged (its checksum does not fit)");
  }
  return manifest;
}

std::string step_folder_name(int64_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "step-%08lld", static_cast<long long>(step));
  return name;
}

std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error))
    if (entry.path().filename().string().rfind("step-", 0) == 0 && std::filesystem::exists(entry.path() / "manifest.json"))
      found.push_back(entry.path());
  std::sort(found.rbegin(), found.rend());
  return found;
}

}  // namespace tessera::checkpoint
