#include "inference/engine.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "inference/generation.h"

namespace tessera::inference {

Engine::Engine(ModelLayout layout, EngineConfig config) : layout_(std::move(layout)), config_(config) {}

Engine::Engine(model::CausalLM& model, EngineConfig config) : Engine(ModelLayout{{{&model, 0}}, nullptr, nullptr}, config) {}

std::vector<Completion> Engine::generate(const std::vector<Request>& requests, const SamplingConfig& sampling,
                                         const std::function<void(int64_t)>& on_done) {
  Generation generation(layout_, config_, requests, sampling, on_done);
  auto results = generation.run();
  drafts_ = generation.drafts();
  return results;
}

std::vector<Completion> Engine::generate(const std::vector<std::vector<int32_t>>& prompts, const SamplingConfig& sampling,
                                         uint64_t first_sample, const std::function<void(int64_t)>& on_done) {
  std::vector<Request> requests;
  for (const auto& prompt : prompts) requests.push_back({prompt, {first_sample + requests.size()}});
  return generate(requests, sampling, on_done);
}

std::vector<std::vector<float>> Engine::score(const std::vector<std::vector<int32_t>>& sequences) {
  at::NoGradGuard no_grad;
  TESSERA_CHECK(layout_.alone());
  model::CausalLM& model = *layout_.stages.front().model;
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
    const at::Tensor hidden = model.hidden_states(int_tensor(flat.tokens), int_tensor(flat.positions), flat.segments);
    const at::Tensor log_probs = model.loss(hidden, targets).log_probs.cpu();
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
