// The run's folder, written by rank 0: recipe.yaml, metrics.jsonl, run.json, TensorBoard events, model/ (config and
// tokenizer, so that a checkpoint can be exported without the base), checkpoints/.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "parallel/communicator.h"
#include "trainer/config.h"
#include "trainer/tensorboard.h"

namespace tessera::trainer {

class RunFolder final {
 public:
  /// Collective: creates the folder on rank 0 and makes sure by a nonce that all ranks see the same one. Throws ConfigError
  /// if a rank does not.
  RunFolder(const TrainerConfig& config, parallel::Communicator& world);

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }
  [[nodiscard]] std::filesystem::path model() const { return path_ / "model"; }

  /// Drops metrics of steps after `step` (they are about to be made again) and opens the writers. Rank 0 only writes.
  void begin(int64_t step);
  void write_metrics(const nlohmann::json& metrics);
  /// Merges `fields` into run.json.
  void update_run_json(const nlohmann::json& fields);

 private:
  std::filesystem::path path_;
  bool writer_;
  bool use_tensorboard_;
  nlohmann::json run_ = nlohmann::json::object();
  std::unique_ptr<TensorboardWriter> tensorboard_;
};

}  // namespace tessera::trainer
