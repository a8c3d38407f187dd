// A model's config.json: what of it Tessera understands, and refusal by name of what it does not.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tessera::model {

/// Rotary position parameters; `type` "default" or "llama3" (frequency-dependent scaling of Llama 3.1).
struct RopeConfig {
  std::string type = "default";
  double theta = 10000.0;
  double factor = 1.0, low_freq_factor = 1.0, high_freq_factor = 4.0;
  int64_t original_max_position_embeddings = 0;
};

struct ModelConfig {
  std::string model_type = "llama";
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 2048;
  double rms_norm_eps = 1e-6;
  double initializer_range = 0.02;
  bool tie_word_embeddings = false;
  bool attention_bias = false;
  bool mlp_bias = false;
  RopeConfig rope;
  std::vector<int32_t> eos_token_ids;
  nlohmann::json raw;  // the file as read, written back on export

  /// Throws ConfigError naming `source`, the key and the remedy.
  static ModelConfig from_json(const nlohmann::json& json, const std::string& source);
  static ModelConfig load(const std::filesystem::path& folder);
  void validate(const std::string& source) const;

  /// Inverse frequencies [head_dim / 2] after scaling.
  [[nodiscard]] std::vector<double> inverse_frequencies() const;
  /// Parameters that take part in a matrix product for each token, the head included (for FLOP counts).
  [[nodiscard]] int64_t matmul_parameters() const;
};

}  // namespace tessera::model
