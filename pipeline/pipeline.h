// Runs the stages of a pipeline one after the other (DeepSeek-R1, arXiv 2501.12948, section 2.3) and reports on what each has brought. Read run()
// in pipeline.cpp first; it is the table of contents.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "pipeline/config.h"
#include "pipeline/stage_record.h"
#include "trainer/learner.h"

namespace tessera::pipeline {

struct RunOptions {
  bool from_the_start = false;  // instead of going on where the last run stopped
  bool show_progress = true;
  std::function<bool()> stop_requested = [] { return false; };
};

class Runner final {
 public:
  /// Both must outlive it.
  Runner(const Pipeline& pipeline, RunOptions options, parallel::Communicator& world);

  /// Runs what is not done yet, to the end or until asked to stop. Collective. Throws what the stages throw.
  trainer::TrainEnd run();

 private:
  void prepare();
  /// The stage's record; null when asked to stop.
  nlohmann::json run_stage(const Stage& stage);
  bool sample(const Stage& stage, nlohmann::json& record);
  bool train(const Stage& stage, nlohmann::json& record);
  void export_model(const Stage& stage);
  /// Accuracy and mean length of a model on the report's prompts, kept in a file so that it is made once.
  nlohmann::json evaluate(const std::string& title, const trainer::ModelSource& model, const parallel::ParallelConfig& parallel,
                          const std::string& model_hash, const std::filesystem::path& kept);
  /// What rank 0 finds out, on all ranks. What it throws, all throw.
  nlohmann::json on_first(const char* doing, const std::function<nlohmann::json()>& work);

  const Pipeline& pipeline_;
  RunOptions options_;
  parallel::Communicator& world_;
  Products products_;
};

}  // namespace tessera::pipeline
