// Completions of a list of prompts by a model that is laid out over all ranks: in parts, each written when it is complete, so that an
// interruption loses one part at most.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "pipeline/selection.h"
#include "rl/rollouts.h"
#include "trainer/stages.h"

namespace tessera::pipeline {

class Sampler final {
 public:
  /// Reads the prompts; the model is loaded with the first completion. Collective over `world`, like all that follows.
  Sampler(SamplingJob job, parallel::Communicator& world);
  ~Sampler();

  [[nodiscard]] const rl::Prompts& prompts() const { return *prompts_; }
  /// Whether the model has a chat template.
  [[nodiscard]] bool chat() const { return chat_template_.has_value(); }

  struct Candidates {
    std::vector<Candidate> all;  // on rank 0
    double seconds = 0;          // of all parts, those of earlier runs as well
    bool stopped = false;        // as asked, before all were there
  };
  /// All completions of all prompts, through part files in `folder`.
  Candidates collect(const std::filesystem::path& folder, const std::string& title, bool show_progress, const std::function<bool()>& stop_requested);

  /// Means over greedy completions of all prompts.
  struct Evaluation {
    double reward = 0, length = 0;
    int64_t prompts = 0;
  };
  Evaluation evaluate(const std::string& title, bool show_progress);

 private:
  void load();
  std::string part(int64_t first_prompt, int64_t num_prompts);

  SamplingJob job_;
  parallel::Communicator& world_;
  std::unique_ptr<data::Tokenizer> tokenizer_;
  std::optional<data::ChatTemplate> chat_template_;
  std::unique_ptr<rl::Prompts> prompts_;
  std::unique_ptr<parallel::Mesh> mesh_;  // with the model
  std::unique_ptr<trainer::Stages> stages_;
  std::unique_ptr<rl::RolloutMaker> maker_;
};

}  // namespace tessera::pipeline
