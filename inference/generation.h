// One call of Engine::generate. Where the model has an MTP module it drafts a token ahead, and the model takes the token before
// and the draft together: a draft that is what would have been sampled saves a pass, another costs little. What is generated is
// the same. On a pipeline every rank goes through the same steps; only the last draws, and tells the others.
#pragma once

#include <deque>
#include <functional>
#include <vector>

#include "inference/engine.h"

namespace tessera::inference {

class Generation final {
 public:
  Generation(const ModelLayout& layout, const EngineConfig& config, const std::vector<Request>& requests, const SamplingConfig& sampling,
             const std::function<void(int64_t)>& on_done);

  [[nodiscard]] std::vector<Completion> run();
  [[nodiscard]] const DraftStatistics& drafts() const { return drafts_; }

 private:
  /// A prompt in the cache, and what follows from it alone.
  struct Prompt {
    size_t request = 0;
    int64_t sequence = 0;  // of the cache
    at::Tensor logits;     // of its last token [V]
    at::Tensor states;     // its tokens' normed states, with drafts
    std::shared_ptr<const ExpertChoices> experts;  // where they are recorded
    size_t next_sample = 0;
  };
  struct Running {
    size_t result = 0;
    uint64_t key = 0;
    int64_t sequence = 0;  // of the cache
    int64_t prompt_length = 0;
    int32_t next = 0;   // drawn, not yet in the cache
    int32_t draft = 0;  // what the MTP module expects behind it
  };

  [[nodiscard]] int64_t room() const { return config_.max_batch - static_cast<int64_t>(running_.size()); }
  [[nodiscard]] std::vector<size_t> choose_prompts();
  void prefill_prompts(const std::vector<size_t>& chosen);
  void start_samples();
  void advance();
  void advance_drafted(const at::Tensor& stream, const std::vector<Draw>& draws, const std::vector<int64_t>& lengths);
  void draft_first(const Prompt& prompt, Running& sample);
  /// Takes a draw into the result; false when the sequence is complete.
  bool take(Running& sequence, const Draw& draw);
  [[nodiscard]] bool holds_stop_text(const std::vector<int32_t>& tokens) const;
  void end(const Running& sequence);
  [[nodiscard]] uint32_t position(const Running& sequence) const { return static_cast<uint32_t>(results_[sequence.result].tokens.size()); }

  const EngineConfig& config_;
  const std::vector<Request>& requests_;
  const SamplingConfig& sampling_;
  const std::function<void(int64_t)>& on_done_;
  const bool draft_;
  Passes passes_;
  std::vector<size_t> first_result_;  // of each request
  std::vector<Completion> results_;
  std::deque<Prompt> prompts_;  // with samples to start
  std::vector<Running> running_;
  size_t next_request_ = 0;
  int64_t done_ = 0;
  DraftStatistics drafts_;
};

}  // namespace tessera::inference
