// One training run: recipe in, checkpoints and metrics out. Read train() in trainer.cpp first; it is the table of
// contents.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "data/loader.h"
#include "model/causal_lm.h"
#include "parallel/flat_buckets.h"
#include "parallel/mesh.h"
#include "trainer/config.h"
#include "trainer/datasets.h"
#include "trainer/optimizer.h"
#include "trainer/run_folder.h"

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
    double loss = 0, grad_norm = 0, lr = 0, seconds = 0, exposed_seconds = 0;
    int64_t tokens = 0, targets = 0;
    bool skipped = false, stop = false;
  };

  void load_data();
  void load_model();
  int64_t resume();
  StepResult train_step(data::StepBatch batch);
  double forward_backward(const data::StepBatch& batch, int64_t global_targets);
  double evaluate();
  void save(int64_t step);
  void report(int64_t step, const StepResult& result, double validation_loss);
  [[nodiscard]] std::vector<model::NamedWeight> trained_weights() const;
  [[nodiscard]] bool has_validation() const { return data_.validation != nullptr; }

  TrainerConfig config_;
  TrainOptions options_;
  parallel::Communicator& world_;
  parallel::Mesh mesh_;
  parallel::Communicator& dp_;
  RunFolder run_;
  Datasets data_;
  std::unique_ptr<model::CausalLM> model_;
  std::unique_ptr<parallel::FlatBuckets> buckets_;
  std::unique_ptr<AdamW> optimizer_;
  std::string base_hash_;
  int64_t updates_ = 0;       // optimizer updates made: steps less the skipped ones
  int64_t skipped_in_a_row_ = 0, skipped_total_ = 0;
};

}  // namespace tessera::trainer
