// One run over rows of text: recipe in, checkpoints and metrics out. Read train() in trainer.cpp first; it is the table of
// contents.
#pragma once

#include "data/loader.h"
#include "trainer/datasets.h"
#include "trainer/learner.h"

namespace tessera::trainer {

class Trainer final {
 public:
  /// Collective over `world`.
  Trainer(TrainerConfig config, TrainOptions options, parallel::Communicator& world);

  /// Trains to the last step or until asked to stop; both end with a checkpoint. Throws CommError, CheckpointError,
  /// ConfigError.
  TrainEnd train();

 private:
  void load_data();
  double evaluate();
  void report(int64_t step, const StepResult& result, double validation_loss);

  Learner learner_;
  const TrainerConfig& config_;
  Datasets data_;
};

}  // namespace tessera::trainer
