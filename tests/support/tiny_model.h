// A small random model of the Llama family.
#pragma once

#include <torch/torch.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "model/causal_lm.h"

namespace tessera::test {

/// Two layers; grouped query heads; head_dim is not hidden_size / heads.
inline nlohmann::json tiny_config() {
  return {{"model_type", "llama"}, {"vocab_size", 37}, {"hidden_size", 16}, {"intermediate_size", 24}, {"num_hidden_layers", 2},
          {"num_attention_heads", 4}, {"num_key_value_heads", 2}, {"head_dim", 6}, {"max_position_embeddings", 64},
          {"rms_norm_eps", 1e-5}, {"initializer_range", 0.3}, {"tie_word_embeddings", true}};
}

/// Fills what initialize() leaves constant (biases, norms) with random numbers too.
inline std::unique_ptr<model::CausalLM> tiny_model(const nlohmann::json& config = tiny_config(), uint64_t seed = 1) {
  auto model = std::make_unique<model::CausalLM>(model::ModelConfig::from_json(config, "tiny"));
  model->initialize(seed);
  auto generator = at::detail::createCPUGenerator(seed);
  for (const auto& weight : model->weights())
    if (weight.shape.size() == 1) weight.view().add_(at::randn(weight.shape, generator, at::kFloat).mul_(0.1));
  return model;
}

/// Hidden states [T, D] of sequences laid end to end, one a segment.
inline at::Tensor hidden_states(model::CausalLM& model, const std::vector<std::vector<int32_t>>& sequences) {
  std::vector<int32_t> tokens, positions;
  std::vector<Segment> segments;
  for (const auto& sequence : sequences) {
    segments.push_back({static_cast<int64_t>(tokens.size()), static_cast<int64_t>(sequence.size()), 0, -1});
    for (size_t i = 0; i < sequence.size(); ++i) {
      tokens.push_back(sequence[i]);
      positions.push_back(static_cast<int32_t>(i));
    }
  }
  return model.hidden_states(torch::tensor(tokens, torch::kInt), torch::tensor(positions, torch::kInt), segments);
}

/// The logits [T, V] of one sequence, by the final norm and the head in double.
inline at::Tensor full_logits(model::CausalLM& model, const std::vector<int32_t>& sequence) {
  at::NoGradGuard no_grad;
  const at::Tensor x = hidden_states(model, {sequence}).to(torch::kDouble);
  at::Tensor norm, head;
  for (const auto& weight : model.weights()) {
    if (weight.name == "model.norm.weight") norm = weight.view().to(torch::kDouble);
    if (weight.name == "model.embed_tokens.weight" && model.config().tie_word_embeddings) head = weight.view().to(torch::kDouble);
    if (weight.name == "lm_head.weight") head = weight.view().to(torch::kDouble);
  }
  const at::Tensor normed = x * (x.pow(2).mean(-1, true) + model.config().rms_norm_eps).rsqrt() * norm;
  return normed.mm(head.t());
}

}  // namespace tessera::test
