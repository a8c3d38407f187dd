// Batched generation with a key/value cache: a sequence that ends makes room for the next.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/expert_choices.h"
#include "data/tokenizer.h"
#include "inference/passes.h"

namespace tessera::inference {

/// A prompt and the samples wanted of it: its states are computed once for all of them.
struct Request {
  std::vector<int32_t> prompt;    // not empty
  std::vector<uint64_t> samples;  // a number for each; a sample's draws depend on (seed, number, position) only
};

struct Completion {
  std::vector<int32_t> tokens;   // new ids; a stop id that ended the text is not among them
  int32_t stop_id = -1;          // that ended it, or -1
  std::vector<float> log_probs;  // of the tokens and then of the stop id; empty unless asked for
  std::string finish_reason;     // "stop" | "length"
  // With record_experts, for the layers on this rank:
  ExpertChoices experts;  // of the tokens and then of the stop id; the last of them never went through the model and has -1
  std::shared_ptr<const ExpertChoices> prompt_experts;  // of the prompt's tokens
};

/// How often the MTP module's guess was what the model then said.
struct DraftStatistics {
  int64_t made = 0, accepted = 0;
};

struct EngineConfig {
  int64_t max_batch = 32;  // sequences at a time
  bool draft = true;       // with the model's MTP module, where it has one and all of it is here; the text is the same
  const data::Tokenizer* tokenizer = nullptr;  // for stop texts
  bool record_experts = false;  // what the routers chose; without drafts
};

class Engine final {
 public:
  explicit Engine(ModelLayout layout, EngineConfig config = {});
  explicit Engine(model::CausalLM& model, EngineConfig config = {});

  /// Completes every sample of every request; results in that order. A sequence also ends ("length") at the model's
  /// max_position_embeddings. `on_done` hears how many are complete. Collective over the layout's communicators; the ranks of a
  /// pipeline give the same requests and all get the results.
  std::vector<Completion> generate(const std::vector<Request>& requests, const SamplingConfig& sampling,
                                   const std::function<void(int64_t)>& on_done = {});
  /// One sample of each prompt, numbered from `first_sample`.
  std::vector<Completion> generate(const std::vector<std::vector<int32_t>>& prompts, const SamplingConfig& sampling,
                                   uint64_t first_sample = 0, const std::function<void(int64_t)>& on_done = {});

  /// Natural-log probabilities of each token given those before it; the first of each sequence has none and is NaN. Where the model
  /// is alone.
  std::vector<std::vector<float>> score(const std::vector<std::vector<int32_t>>& sequences);

  /// Of the last call of generate.
  [[nodiscard]] const DraftStatistics& drafts() const { return drafts_; }

 private:
  ModelLayout layout_;
  EngineConfig config_;
  DraftStatistics drafts_;
};

}  // namespace tessera::inference
