// One call of Engine::generate: prompts go through a fixed number of cache slots; a sequence that ends gives its slot to the
// next prompt. Where the model has an MTP module it drafts a token ahead, and the model takes the token before and the draft
// together: a draft that is what would have been sampled saves a pass, another costs little. What is generated is the same.
#pragma once

#include <functional>
#include <vector>

#include "inference/engine.h"

namespace tessera::inference {

/// Sequences laid end to end, one a segment.
struct Flat {
  std::vector<int32_t> tokens, positions;
  std::vector<Segment> segments;
  void add(const std::vector<int32_t>& sequence);
};

/// A view of the values, which must outlive it.
[[nodiscard]] at::Tensor int_tensor(std::vector<int32_t>& values);

class Generation final {
 public:
  Generation(model::CausalLM& model, int64_t slots, bool draft, const std::vector<std::vector<int32_t>>& prompts,
             const SamplingConfig& sampling, uint64_t first_sequence, const std::function<void(int64_t)>& on_done);

  [[nodiscard]] std::vector<Completion> run();
  [[nodiscard]] const DraftStatistics& drafts() const { return drafts_; }

 private:
  struct Running {
    int64_t prompt = 0, slot = 0;
    int32_t next = 0;   // sampled, not yet in the cache
    int32_t draft = 0;  // what the MTP module expects behind it
  };

  void start_prompts();
  void advance();
  /// Samples from one row of logits into the result; false when the sequence is complete.
  bool sample(Running& sequence, const at::Tensor& logits, int64_t row);
  void end(const Running& sequence);

  model::CausalLM& model_;
  const std::vector<std::vector<int32_t>>& prompts_;
  const SamplingConfig& sampling_;
  const uint64_t first_sequence_;
  const std::function<void(int64_t)>& on_done_;
  const bool draft_;
  model::KvCache cache_;
  std::vector<Completion> results_;
  std::vector<Running> running_;
  std::vector<int64_t> free_slots_;
  size_t next_prompt_ = 0;
  int64_t done_ = 0;
  DraftStatistics drafts_;
};

}  // namespace tessera::inference
