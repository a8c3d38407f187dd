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

/// DeepSeek-V3's architecture: a dense layer, one with experts, an MTP module.
inline nlohmann::json tiny_deepseek_config() {
  return {{"model_type", "deepseek_v3"}, {"vocab_size", 37}, {"hidden_size", 16}, {"intermediate_size", 24}, {"moe_intermediate_size", 12},
          {"num_hidden_layers", 2}, {"num_attention_heads", 4}, {"num_key_value_heads", 4}, {"max_position_embeddings", 64},
          {"q_lora_rank", 12}, {"kv_lora_rank", 10}, {"qk_nope_head_dim", 4}, {"qk_rope_head_dim", 4}, {"v_head_dim", 6},
          {"n_routed_experts", 8}, {"n_shared_experts", 1}, {"num_experts_per_tok", 2}, {"n_group", 2}, {"topk_group", 1},
          {"first_k_dense_replace", 1}, {"norm_topk_prob", true}, {"routed_scaling_factor", 2.5}, {"scoring_func", "sigmoid"},
          {"topk_method", "noaux_tc"}, {"num_nextn_predict_layers", 1}, {"rms_norm_eps", 1e-5}, {"initializer_range", 0.3},
          {"rope_theta", 10000.0}, {"tie_word_embeddings", false}};
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
