// The model in training, wherever its data comes from: weights, optimizer, balancing, checkpoints and metrics of one run. The
// trainer feeds it rows of text, the reinforcement-learning loop its rollouts.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/background_writer.h"
#include "checkpoint/reader.h"
#include "data/tokenizer.h"
#include "moe/load_balancer.h"
#include "parallel/mesh.h"
#include "trainer/communication_log.h"
#include "trainer/config.h"
#include "trainer/loss_terms.h"
#include "trainer/optimizer.h"
#include "trainer/run_folder.h"
#include "trainer/stages.h"

namespace tessera::trainer {

struct TrainOptions {
  std::string resume = "auto";  // auto | never | a checkpoint's folder
  std::string recipe_yaml;      // the resolved recipe, saved with the run
  /// Its flat keys and values: what a resume is compared against.
  std::map<std::string, std::string> recipe_keys;
  bool show_progress = true;
  /// Polled once a step; true on any rank: save and stop.
  std::function<bool()> stop_requested = [] { return false; };
  c10::Device device = at::kCPU;  // where passes and updates run; TrainerConfig::device names its kind
};

enum class TrainEnd { kFinished, kStopped };

struct StepResult {
  double loss = 0, grad_norm = 0, lr = 0, seconds = 0;
  double mtp_loss = 0, balance_loss = 0, z_loss = 0;  // weights included
  int64_t tokens = 0, targets = 0;
  bool skipped = false, stop = false;
  AxisTraffic traffic;                // of this rank
  std::vector<moe::LayerLoad> loads;  // of each layer with experts

  /// Whether the update can be made.
  [[nodiscard]] bool finite() const;
};

/// What a run keeps in its checkpoints besides the model and the optimizer.
struct RunState {
  nlohmann::json values = nlohmann::json::object();
  std::vector<checkpoint::OwnedRange> ranges = {};
};

class Learner final {
 public:
  /// Collective over `world`, like all that follows.
  Learner(TrainerConfig config, TrainOptions options, parallel::Communicator& world);

  [[nodiscard]] const TrainerConfig& config() const { return config_; }
  [[nodiscard]] const TrainOptions& options() const { return options_; }
  [[nodiscard]] parallel::Communicator& world() { return world_; }
  [[nodiscard]] const parallel::Mesh& mesh() const { return mesh_; }
  [[nodiscard]] RunFolder& run() { return run_; }
  [[nodiscard]] Stages& stages() { return *stages_; }
  [[nodiscard]] bool shows_progress() const { return options_.show_progress && world_.rank() == 0; }

  /// Throws ConfigError when the recipe wants to train what the model does not have.
  void load_model(const data::Tokenizer& tokenizer);
  /// The step to go on from: 0, or a checkpoint's. `read_more`, if given, reads what the run itself has kept.
  int64_t resume(const std::string& data_hash, const std::function<void(checkpoint::CheckpointReader&, const nlohmann::json&)>& read_more = {});
  void begin(int64_t step);

  /// Forward and backward passes, and an update unless something is not finite. `objective`: instead of the mean cross-entropy.
  StepResult step(const data::StepBatch& batch, Objective* objective = nullptr);
  void save(int64_t step, const RunState& state = {});
  /// Of the trained weights, by name.
  [[nodiscard]] std::vector<model::NamedWeight> weights() const { return stages_->weights(trains_adapters()); }
  /// What metrics.jsonl says of a step.
  [[nodiscard]] nlohmann::json metrics(int64_t step, const StepResult& result);
  /// Waits for the checkpoint and closes the run's books.
  TrainEnd finish(int64_t step);
  /// Throws what went wrong while saving in the background.
  void check_saving();

 private:
  void update(const data::StepBatch& batch, StepResult& result);
  [[nodiscard]] std::vector<checkpoint::OwnedRange> owned_ranges() const;
  void write(int64_t step, const RunState& state);
  void add_moe_metrics(const StepResult& result, nlohmann::json& metrics) const;
  void check_model(const model::ModelConfig& model, const data::Tokenizer& tokenizer) const;
  void fill_weights();
  [[nodiscard]] bool trains_adapters() const { return config_.model.lora.has_value(); }
  [[nodiscard]] bool trains_mtp() const { return config_.mtp.loss_weight > 0; }

  TrainerConfig config_;
  TrainOptions options_;
  parallel::Communicator& world_;
  parallel::Mesh mesh_;
  RunFolder run_;
  std::vector<moe::Passage> passages_;  // of the step, with log.communication
  std::unique_ptr<Stages> stages_;
  std::unique_ptr<CommunicationLog> communication_log_;  // null: not kept
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<moe::LoadBalancer> balancer_;
  std::unique_ptr<checkpoint::BackgroundWriter> writer_;  // null: saving stops training
  std::string base_hash_, data_hash_;
  int64_t updates_ = 0;  // optimizer updates made: steps less the skipped ones
  int64_t skipped_in_a_row_ = 0, skipped_total_ = 0;
  double save_seconds_ = 0;  // that training stood still for saving, since the last line of metrics
};

}  // namespace tessera::trainer
