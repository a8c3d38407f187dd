#include "trainer/resume.h"

#include <array>
#include <string_view>

#include "core/error.h"
#include "core/log.h"
#include "parallel/text_exchange.h"

namespace tessera::trainer {

namespace {

using nlohmann::json;

// Keys that change neither the model nor what it sees; a prefix ends with a dot.
constexpr std::array kHarmless = {"name", "output", "device", "train.steps", "train.sequences_per_microbatch", "train.recompute",
                                  "train.max_nonfinite_steps", "log.", "checkpoint.", "evaluate.", "parallel.",
                                  "communication.", "data.validation", "rl.samples_every", "rl.generation_batch"};

/// What rank 0 found: a folder, or an error, or nothing.
json search(const std::filesystem::path& checkpoints, const std::string& resume) {
  if (resume != "auto") {
    try {
      return {{"folder", resume}, {"manifest", checkpoint::read_and_verify(resume).dump()}};
    } catch (const Error& error) {
      return {{"error", std::string("--resume: ") + error.what()}};
    }
  }
  for (const auto& folder : checkpoint::list_checkpoints(checkpoints)) {
    try {
      return {{"folder", folder.string()}, {"manifest", checkpoint::read_and_verify(folder).dump()}};
    } catch (const Error& error) {
      log::warn(error.what(), "; trying the checkpoint before it");
    }
  }
  return json::object();
}

}  // namespace

bool is_harmless(const std::string& key) {
  for (const std::string_view prefix : kHarmless) {
    if (!key.starts_with(prefix)) continue;
    if (key.size() == prefix.size() || prefix.back() == '.' || key[prefix.size()] == '.' || key[prefix.size()] == '[') return true;
  }
  return false;
}

std::optional<ResumePoint> find_resume_point(const std::filesystem::path& checkpoints, const std::string& resume,
                                             parallel::Communicator& world) {
  if (resume == "never") return std::nullopt;
  const auto busy = world.announce("verifying checkpoints");
  const json found = json::parse(parallel::broadcast_text(world, world.rank() == 0 ? search(checkpoints, resume).dump() : ""));
  if (found.contains("error")) throw CheckpointError(found["error"].get<std::string>());
  if (!found.contains("folder")) return std::nullopt;
  return ResumePoint{found["folder"].get<std::string>(),
                     checkpoint::Manifest::parse(found["manifest"].get<std::string>(), found["folder"].get<std::string>())};
}

void check_resumable(const json& state, const std::map<std::string, std::string>& recipe, const std::string& data_hash,
                     const std::string& base_hash, const std::string& checkpoint) {
  const std::string remedy = "; undo the change, or start afresh with --resume never or another output folder";
  const auto before = state.at("recipe").get<std::map<std::string, std::string>>();
  const auto compare = [&](const std::string& key) {
    const auto old_value = before.find(key), new_value = recipe.find(key);
    const std::string was = old_value == before.end() ? "(absent)" : old_value->second;
    const std::string is = new_value == recipe.end() ? "(absent)" : new_value->second;
    if (was != is && !is_harmless(key))
      throw ConfigError("cannot resume from " + checkpoint + ": " + key + " was " + was + " and is " + is + remedy);
  };
  for (const auto& [key, value] : before) compare(key);
  for (const auto& [key, value] : recipe) compare(key);
  if (state.at("data_hash") != data_hash)
    throw ConfigError("cannot resume from " + checkpoint + ": the training data (data.train) has changed" + remedy);
  if (state.at("base_hash") != base_hash)
    throw ConfigError("cannot resume from " + checkpoint + ": the base model (model.path) has changed" + remedy);
}

}  // namespace tessera::trainer
