// Choosing the next token from logits.
#pragma once

#include <cstdint>
#include <vector>

namespace tessera::inference {

struct SamplingConfig {
  double temperature = 0.7;  // 0 = greedy
  double top_p = 1.0;        // smallest set of tokens with at least this probability; 1 = all
  int64_t top_k = 0;         // 0 = all
  int64_t max_new_tokens = 256;
  uint64_t seed = 0;
  std::vector<int32_t> stop_ids = {};

  /// Throws ConfigError naming the option.
  void validate() const;
};

/// logits: [V], changed in place. The draw depends on (seed, sequence, position) only. Greedy takes the first maximum.
[[nodiscard]] int32_t sample_token(float* logits, int64_t vocabulary, const SamplingConfig& config, uint64_t sequence, uint32_t position);

}  // namespace tessera::inference
