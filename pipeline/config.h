// A pipeline as its recipe describes it: stages that run one after the other, each on what those before it made. Everything is
// resolved when the recipe is read; nothing here depends on what has run so far.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "rl/config.h"
#include "trainer/config.h"

namespace tessera::pipeline {

/// General data beside the selected completions.
struct MixConfig {
  std::string path;  // JSONL in a training format
  double share = 0;  // of all samples
};

/// Which completions become samples.
struct SelectionConfig {
  int64_t keep_per_prompt = 1;
  double minimum_reward = 1.0;  // of the total
  bool readable = true;         // drops what readability.h complains about
  std::vector<MixConfig> mix;
  int64_t limit = 0;            // kept completions at most; 0: all

  /// Throws ConfigError; `section` opens the names of keys.
  void validate(const std::string& section) const;
};

struct DistillConfig {
  std::string teacher;  // a stage's name, or a model folder
  int64_t samples_per_prompt = 1;
  int64_t max_new_tokens = 256;
  double temperature = 0;  // 0: greedy
  double top_p = 1.0;
  int64_t generation_batch = 64;
  std::vector<rl::RewardConfig> rewards;  // none: all completions that end are good
  SelectionConfig selection;

  void validate() const;
  /// What sampling asks for, in the words of reinforcement learning.
  [[nodiscard]] rl::RlConfig rollouts() const;
};

/// The model of every stage on problems held out.
struct ReportConfig {
  std::vector<data::SourceConfig> data;
  std::vector<rl::RewardConfig> rewards;
  int64_t max_new_tokens = 256;
  int64_t generation_batch = 64;

  void validate() const;
};

/// A model and the prompts that it completes.
struct SamplingJob {
  trainer::ModelSource model;
  parallel::ParallelConfig parallel;
  std::vector<data::SourceConfig> prompts;
  rl::RlConfig rl;
  uint64_t seed = 0;
};

struct Stage {
  std::string name, task;              // sft | pretrain | grpo | reject | distill
  trainer::TrainerConfig config;       // of the training run; of reject: name, seed, output, model, data, parallel
  std::optional<rl::RlConfig> rl;      // of grpo
  std::optional<SamplingJob> sampling;  // of reject and distill
  SelectionConfig selection;           // the same
  std::vector<std::string> inputs;     // stages whose output it reads
  std::string run_yaml;                // the training run's recipe
  std::map<std::string, std::string> run_keys;
  std::map<std::string, std::string> keys;  // all that decides what the stage makes

  [[nodiscard]] bool trains() const { return task != "reject"; }
  [[nodiscard]] bool samples() const { return task == "reject" || task == "distill"; }
  [[nodiscard]] std::filesystem::path folder() const { return config.output; }
  [[nodiscard]] std::filesystem::path exported_path() const { return folder() / "exported"; }
  [[nodiscard]] std::filesystem::path samples_path() const { return folder() / "samples.jsonl"; }
};

struct Pipeline {
  std::string name, output;
  uint64_t seed = 0;
  trainer::ModelSource model;  // that the first stage starts with
  parallel::ParallelConfig parallel;
  trainer::CommunicationConfig communication;
  std::vector<Stage> stages;
  std::optional<ReportConfig> report;
  std::map<std::string, std::string> report_keys;
};

/// Where stage `name` of a pipeline puts what it makes.
[[nodiscard]] inline std::filesystem::path stage_folder(const std::filesystem::path& output, const std::string& name) { return output / "stages" / name; }

}  // namespace tessera::pipeline
