// Rotary position parameters of a config.json and the frequencies that follow from them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/config_reader.h"

namespace tessera::model {

/// `type` is "default", "llama3" (frequency-dependent scaling of Llama 3.1) or "yarn" (arXiv 2309.00071).
struct RopeConfig {
  std::string type = "default";
  double theta = 10000.0;
  double factor = 1.0;
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0, beta_slow = 1.0;              // yarn
  double mscale = 0.0, mscale_all_dim = 0.0;             // yarn; 0 = absent
  std::optional<double> given_attention_factor;
  bool truncate = true;
  int64_t original_max_position_embeddings = 0;
  bool neighbours = false;  // an angle rotates components 2i and 2i + 1 instead of i and i + E/2

  /// From `rope_theta` and `rope_parameters` (transformers 5) or `rope_scaling` (transformers 4).
  static RopeConfig read(const ConfigReader& reader, double default_theta);
  void validate(const std::string& source) const;

  /// [dim / 2]
  [[nodiscard]] std::vector<double> inverse_frequencies(int64_t dim) const;
  /// What cos and sin are multiplied with.
  [[nodiscard]] double attention_factor() const;
  /// What MLA multiplies the scale of its scores with, besides.
  [[nodiscard]] double latent_scale() const;
};

}  // namespace tessera::model
