#include "inference/engine.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace tessera::inference {

namespace {

// Prompt or scored tokens that go through the model at a time.
constexpr int64_t kTokensAtOnce = 2048;

at::Tensor int_tensor(std::vector<int32_t>& values) {
  return at::from_blob(values.data(), {static_cast<int64_t>(values.size())}, at::kInt);
}

/// Sequences laid end to end, one a segment.
struct Flat {
  std::vector<int32_t> tokens, positions;
  std::vector<Segment> segments;

  void add(const std::vector<int32_t>& sequence) {
    segments.push_back({static_cast<int64_t>(tokens.size()), static_cast<int64_t>(sequence.size()), 0, -1});
    tokens.insert(tokens.end(), sequence.begin(), sequence.end());
    for (size_t i = 0; i < sequence.size(); ++i) positions.push_back(static_cast<int32_t>(i));
  }
};

struct Running {
  int64_t prompt = 0, slot = 0;
  int32_t next = 0;  // sampled, not yet in the cache
};

}  // namespace

Engine::Engine(model::CausalLM& model, int64_t max_batch) : model_(model), max_batch_(max_batch) {}

std::vector<Completion> Engine::generate(const std::vector<std::vector<int32_t>>& prompts, const SamplingConfig& sampling,
                                         uint64_t first_sequence, const std::function<void(int64_t)>& on_done) {
  const auto& config = model_.config();
  const int64_t slots = std::min<int64_t>(max_batch_, static_cast<int64_t>(prompts.size()));
  model::KvCache cache = model_.make_cache(slots);
  std::vector<Completion> results(prompts.size());
  std::vector<Running> running;
  std::vector<int64_t> free_slots;
  for (int64_t slot = slots; slot-- > 0;) free_slots.push_back(slot);
  int64_t next_prompt = 0, done = 0;

  // Takes the sampled token into the result; false when the sequence is complete.
  const auto accept = [&](const Running& r) {
    Completion& result = results[static_cast<size_t>(r.prompt)];
    if (std::find(sampling.stop_ids.begin(), sampling.stop_ids.end(), r.next) != sampling.stop_ids.end()) {
      result.finish_reason = "stop";
      return false;
    }
    result.tokens.push_back(r.next);
    const auto length = static_cast<int64_t>(prompts[static_cast<size_t>(r.prompt)].size() + result.tokens.size());
    if (static_cast<int64_t>(result.tokens.size()) < sampling.max_new_tokens && length < config.max_position_embeddings) return true;
    result.finish_reason = "length";
    return false;
  };
  const auto sample_all = [&](at::Tensor logits, std::vector<Running>& batch) {
    std::vector<Running> alive;
    for (size_t i = 0; i < batch.size(); ++i) {
      Running r = batch[i];
      r.next = sample_token(logits[static_cast<int64_t>(i)].data_ptr<float>(), logits.size(1), sampling,
                            first_sequence + static_cast<uint64_t>(r.prompt),
                            static_cast<uint32_t>(results[static_cast<size_t>(r.prompt)].tokens.size()));
      if (accept(r)) {
        alive.push_back(r);
      } else {
        free_slots.push_back(r.slot);
        if (on_done) on_done(++done);
      }
    }
    batch = std::move(alive);
  };

  while (!running.empty() || next_prompt < static_cast<int64_t>(prompts.size())) {
    Flat flat;
    std::vector<Running> started;
    std::vector<int64_t> started_slots;
    while (!free_slots.empty() && next_prompt < static_cast<int64_t>(prompts.size())) {
      const auto& prompt = prompts[static_cast<size_t>(next_prompt)];
      TESSERA_CHECK(!prompt.empty(), "empty prompt");
      if (!flat.tokens.empty() && static_cast<int64_t>(flat.tokens.size() + prompt.size()) > kTokensAtOnce) break;
      flat.add(prompt);
      started.push_back({next_prompt++, free_slots.back(), 0});
      started_slots.push_back(free_slots.back());
      free_slots.pop_back();
    }
    if (!started.empty()) {
      sample_all(model_.prefill(int_tensor(flat.tokens), int_tensor(flat.positions), flat.segments, started_slots, cache), started);
      running.insert(running.end(), started.begin(), started.end());
    }
    if (running.empty()) continue;
    std::vector<int32_t> tokens;
    std::vector<int64_t> batch_slots;
    for (const Running& r : running) {
      tokens.push_back(r.next);
      batch_slots.push_back(r.slot);
    }
    sample_all(model_.decode(int_tensor(tokens), batch_slots, cache), running);
  }
  return results;
}

std::vector<std::vector<float>> Engine::score(const std::vector<std::vector<int32_t>>& sequences) {
  at::NoGradGuard no_grad;
  std::vector<std::vector<float>> results(sequences.size());
  for (size_t begin = 0; begin < sequences.size();) {
    Flat flat;
    size_t end = begin;
    while (end < sequences.size() &&
           (end == begin || static_cast<int64_t>(flat.tokens.size() + sequences[end].size()) <= kTokensAtOnce))
      flat.add(sequences[end++]);
    kernels::Targets targets;
    for (const auto& segment : flat.segments) {
      for (int64_t t = 1; t < segment.length; ++t) {
        targets.sources.push_back(segment.start + t - 1);
        targets.ids.push_back(flat.tokens[static_cast<size_t>(segment.start + t)]);
        targets.weights.push_back(1.0f);
      }
    }
    const at::Tensor hidden = model_.hidden_states(int_tensor(flat.tokens), int_tensor(flat.positions), flat.segments);
    const at::Tensor log_probs = model_.loss(hidden, targets).log_probs;
    const float* p = log_probs.const_data_ptr<float>();
    for (size_t i = begin; i < end; ++i) {
      if (sequences[i].empty()) continue;
      results[i].push_back(NAN);
      for (size_t t = 1; t < sequences[i].size(); ++t) results[i].push_back(*p++);
    }
    begin = end;
  }
  return results;
}

}  // namespace tessera::inference
