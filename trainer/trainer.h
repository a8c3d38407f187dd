// One training run: recipe in, checkpoints and metrics out. Read train() in trainer.cpp first; it is the table of
// contents.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "checkpoint/background_writer.h"
#include "data/loader.h"
#include "moe/load_balancer.h"
#include "parallel/mesh.h"
#include "trainer/communication_log.h"
#include "trainer/config.h"
#include "trainer/datasets.h"
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
};

enum class TrainEnd { kFinished, kStopped };

class Trainer final {
 public:
  /// Collective over `world`.
  Trainer(TrainerConfig config, TrainOptions options, parallel::Communicator& world);

  /// Trains to the last step or until asked to stop; both end with a checkpoint. Throws CommError, CheckpointError,
  /// ConfigError.
  TrainEnd train();

 private:
  struct StepResult {
    double loss = 0, grad_norm = 0, lr = 0, seconds = 0;
    double mtp_loss = 0, balance_loss = 0, z_loss = 0;  // weights included
    int64_t tokens = 0, targets = 0;
    bool skipped = false, stop = false;
    AxisTraffic traffic;  // of this rank
    std::vector<moe::LayerLoad> loads;  // of each layer with experts

    /// Whether the update can be made.
    [[nodiscard]] bool finite() const;
  };

  void load_data();
  void load_model();
  int64_t resume();
  StepResult train_step(data::StepBatch batch);
  void update(const data::StepBatch& batch, StepResult& result);
  double evaluate();
  [[nodiscard]] std::vector<checkpoint::OwnedRange> owned_ranges() const;
  void save(int64_t step);
  void write(int64_t step);
  void report(int64_t step, const StepResult& result, double validation_loss);
  void add_moe_metrics(const StepResult& result, nlohmann::json& metrics) const;
  /// Throws ConfigError where the recipe wants to train what the model does not have.
  void check_model(const model::ModelConfig& model) const;
  void fill_weights();
  [[nodiscard]] bool trains_adapters() const { return config_.model.lora.has_value(); }
  [[nodiscard]] bool trains_mtp() const { return config_.mtp.loss_weight > 0; }
  [[nodiscard]] bool has_validation() const { return data_.validation != nullptr; }

  TrainerConfig config_;
  TrainOptions options_;
  parallel::Communicator& world_;
  parallel::Mesh mesh_;
  parallel::Communicator& dp_;
  RunFolder run_;
  Datasets data_;
  std::vector<moe::Passage> passages_;  // of the step, with log.communication
  std::unique_ptr<Stages> stages_;
  std::unique_ptr<CommunicationLog> communication_log_;  // null: not kept
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<moe::LoadBalancer> balancer_;
  std::unique_ptr<checkpoint::BackgroundWriter> writer_;  // null: saving stops training
  std::string base_hash_;
  int64_t updates_ = 0;       // optimizer updates made: steps less the skipped ones
  int64_t skipped_in_a_row_ = 0, skipped_total_ = 0;
  double save_seconds_ = 0;  // that training stood still for saving, since the last line of metrics
};

}  // namespace tessera::trainer
