#include "inference/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/random.h"

namespace tessera::inference {

namespace {
constexpr uint32_t kSite = 0x53414D50;  // "SAMP"

/// Block maxima first: std::max_element compares one by one.
const float* first_maximum(const float* x, int64_t count) {
  constexpr int64_t kBlock = 1024;
  const float* best_block = x;
  float best = -std::numeric_limits<float>::infinity();
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(count, begin + kBlock);
    float lanes[16];
    std::fill(lanes, lanes + 16, best);
    int64_t i = begin;
    for (; i + 16 <= end; i += 16)
      for (int64_t j = 0; j < 16; ++j) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
    for (; i < end; ++i) lanes[0] = std::max(lanes[0], x[i]);
    const float block = *std::max_element(lanes, lanes + 16);
    if (block > best) {
      best = block;
      best_block = x + begin;
    }
  }
  return std::max_element(best_block, std::min(best_block + kBlock, x + count));
}
}

void SamplingConfig::validate() const {
  if (!(temperature >= 0) || !std::isfinite(temperature)) throw ConfigError(detail::concat("--temperature ", temperature, " must be 0 (greedy) or more"));
  if (!(top_p > 0 && top_p <= 1)) throw ConfigError(detail::concat("--top-p ", top_p, " must be in (0, 1]"));
  if (top_k < 0) throw ConfigError(detail::concat("--top-k ", top_k, " must be 0 (all) or more"));
  if (max_new_tokens < 1) throw ConfigError(detail::concat("--max-new-tokens ", max_new_tokens, " must be at least 1"));
}

int32_t sample_token(float* logits, int64_t vocabulary, const SamplingConfig& config, uint64_t sequence, uint32_t position) {
  const float* best = first_maximum(logits, vocabulary);
  if (config.temperature == 0) return static_cast<int32_t>(best - logits);
  const float maximum = *best;
  std::vector<int32_t> order(static_cast<size_t>(vocabulary));
  std::iota(order.begin(), order.end(), 0);
  const auto larger = [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  size_t kept = order.size();
  if (config.top_k > 0 && config.top_k < vocabulary) {
    kept = static_cast<size_t>(config.top_k);
    std::partial_sort(order.begin(), order.begin() + config.top_k, order.end(), larger);
  } else if (config.top_p < 1) {
    std::sort(order.begin(), order.end(), larger);
  }
  std::vector<double> weights(kept);
  double total = 0;
  for (size_t i = 0; i < kept; ++i) total += weights[i] = std::exp((double{logits[order[i]]} - maximum) / config.temperature);
  if (config.top_p < 1) {
    double cumulated = 0;
    size_t i = 0;
    while (i < kept && cumulated < config.top_p * total) cumulated += weights[i++];
    kept = i;
    total = cumulated;
  }
  double draw = random_uniform(config.seed, kSite, sequence, position) * total;
  for (size_t i = 0; i + 1 < kept; ++i) {
    draw -= weights[i];
    if (draw < 0) return order[i];
  }
  return order[kept - 1];
}

}  // namespace tessera::inference
