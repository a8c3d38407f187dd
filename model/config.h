// A model's config.json: what of it Tessera understands, and refusal by name of what it does not. One struct covers all
// families; model/families/ holds a reader for each.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "moe/config.h"
#include "model/rope_config.h"

namespace tessera::model {

/// Grouped query heads, or multi-head latent attention (MLA).
enum class AttentionKind { kGrouped, kLatent };

/// MLA's sizes (DeepSeek-V2, arXiv 2405.04434, section 2.1).
struct LatentConfig {
  int64_t q_lora_rank = 0;  // 0: queries are not compressed
  int64_t kv_lora_rank = 0;
  int64_t qk_nope_head_dim = 0, qk_rope_head_dim = 0, v_head_dim = 0;
  [[nodiscard]] int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
};

/// How the family's files call the parts of a mixture-of-experts layer.
struct ExpertNames {
  std::string layer = "mlp", gate = "gate_proj", up = "up_proj", down = "down_proj";
};

/// FP8 weights with one scale a block; rows and columns of a block, 0 when the files are not quantised.
struct BlockQuantization {
  int64_t rows = 0, columns = 0;
};

struct ModelConfig {
  std::string model_type = "llama";
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;  // of dense layers
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 2048;
  double rms_norm_eps = 1e-6;
  double initializer_range = 0.02;
  bool tie_word_embeddings = false;
  AttentionKind attention = AttentionKind::kGrouped;
  LatentConfig latent;
  bool attention_bias = false;         // q, k, v; of MLA the down projections
  bool attention_output_bias = false;  // o
  bool mlp_bias = false;
  bool qk_norm = false;                // RMSNorm of each query and key head
  RopeConfig rope;
  moe::MoeConfig moe;
  std::vector<bool> moe_layers;        // [num_hidden_layers]; empty: none
  ExpertNames expert_names;
  int64_t num_mtp_modules = 0;         // modules that predict further tokens (num_nextn_predict_layers)
  BlockQuantization quantization;
  std::vector<int32_t> eos_token_ids;
  nlohmann::json raw;  // the file as read, written back on export

  /// Throws ConfigError naming `source`, the key and the remedy.
  static ModelConfig from_json(const nlohmann::json& json, const std::string& source);
  static ModelConfig load(const std::filesystem::path& folder);
  void validate(const std::string& source) const;

  /// Whether layer `i` routes to experts. An MTP module, counted behind the layers, is like the last layer.
  [[nodiscard]] bool is_moe_layer(int64_t i) const;
  [[nodiscard]] bool has_experts() const { return moe.num_experts > 0; }
  /// Width of the rotated part of a head.
  [[nodiscard]] int64_t rope_dim() const { return attention == AttentionKind::kLatent ? latent.qk_rope_head_dim : head_dim; }
  /// Inverse frequencies [rope_dim / 2] after scaling.
  [[nodiscard]] std::vector<double> inverse_frequencies() const { return rope.inverse_frequencies(rope_dim()); }
  /// Parameters that take part in a matrix product for each token, the head included (for FLOP counts): of routed experts
  /// those that a token visits.
  [[nodiscard]] int64_t matmul_parameters() const;
};

}  // namespace tessera::model
