// Batched generation with a key/value cache: sequences that finish give their slot to the next prompt.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "inference/sampler.h"
#include "model/causal_lm.h"

namespace tessera::inference {

struct Completion {
  std::vector<int32_t> tokens;  // new ids; a stop id that ended the text is not among them
  std::string finish_reason;    // "stop" | "length"
};

/// How often the MTP module's guess was what the model then said.
struct DraftStatistics {
  int64_t made = 0, accepted = 0;
};

class Engine final {
 public:
  /// `draft`: generate with the model's MTP module, where it has one; the text is the same.
  explicit Engine(model::CausalLM& model, int64_t max_batch = 32, bool draft = true);

  /// Completes every prompt (non-empty); results in the order of the prompts. A sequence also ends ("length") at the
  /// model's max_position_embeddings. `first_sequence` numbers the prompts for sampling; `on_done` hears of progress.
  std::vector<Completion> generate(const std::vector<std::vector<int32_t>>& prompts, const SamplingConfig& sampling,
                                   uint64_t first_sequence = 0, const std::function<void(int64_t)>& on_done = {});

  /// Natural-log probabilities of each token given those before it; the first of each sequence has none and is NaN.
  std::vector<std::vector<float>> score(const std::vector<std::vector<int32_t>>& sequences);

  /// Of the last call of generate.
  [[nodiscard]] const DraftStatistics& drafts() const { return drafts_; }

 private:
  model::CausalLM& model_;
  int64_t max_batch_;
  bool draft_;
  DraftStatistics drafts_;
};

}  // namespace tessera::inference
