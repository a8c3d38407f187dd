// Choosing the next token from logits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tessera::inference {

struct SamplingConfig {
  double temperature = 0.7;  // 0 = greedy
  double top_p = 1.0;        // smallest set of tokens with at least this probability; 1 = all
  int64_t top_k = 0;         // 0 = all
  int64_t max_new_tokens = 256;
  uint64_t seed = 0;
  std::vector<int32_t> stop_ids = {};
  std::vector<std::string> stop_texts = {};  // a text that holds one of them is complete
  bool log_probs = false;                    // of each token

  /// Throws ConfigError naming the option.
  void validate() const;
};

struct Draw {
  int32_t token = 0;
  float log_prob = 0;  // natural, of the whole distribution at the temperature (at 1 when greedy)
};

/// What a draw is made from, in [0, 1).
[[nodiscard]] double sampling_uniform(const SamplingConfig& config, uint64_t sequence, uint32_t position);

/// logits: [V]. The draw depends on (seed, sequence, position) only. Greedy takes the first maximum.
[[nodiscard]] Draw draw_token(const float* logits, int64_t vocabulary, const SamplingConfig& config, uint64_t sequence, uint32_t position);

}  // namespace tessera::inference
