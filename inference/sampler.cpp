#include "inference/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "kernels/cpu/kernel_table.h"

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

}  // namespace

void SamplingConfig::validate() const {
  if (!(temperature >= 0) || !std::isfinite(temperature)) throw ConfigError(detail::concat("--temperature ", temperature, " must be 0 (greedy) or more"));
  if (!(top_p > 0 && top_p <= 1)) throw ConfigError(detail::concat("--top-p ", top_p, " must be in (0, 1]"));
  if (top_k < 0) throw ConfigError(detail::concat("--top-k ", top_k, " must be 0 (all) or more"));
  if (max_new_tokens < 1) throw ConfigError(detail::concat("--max-new-tokens ", max_new_tokens, " must be at least 1"));
}

namespace {

/// Likeliest first, of equal ones the first.
std::vector<int32_t> by_probability(const float* logits, int64_t vocabulary, int64_t kept) {
  std::vector<int32_t> order(static_cast<size_t>(vocabulary));
  std::iota(order.begin(), order.end(), 0);
  const auto larger = [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  std::partial_sort(order.begin(), order.begin() + kept, order.end(), larger);
  order.resize(static_cast<size_t>(kept));
  return order;
}

/// The token at `draw` of the way through the weights.
int64_t pick(const float* weights, const double* block_sums, int64_t count, double draw) {
  int64_t begin = 0;
  for (; begin + kernels::kSamplingBlock < count && draw >= *block_sums; begin += kernels::kSamplingBlock) draw -= *block_sums++;
  int64_t last = begin;  // with some weight, should rounding leave a rest at the end
  for (int64_t i = begin; i < std::min(begin + kernels::kSamplingBlock, count); ++i) {
    if (weights[i] <= 0) continue;
    last = i;
    draw -= weights[i];
    if (draw < 0) break;
  }
  return last;
}

}  // namespace

double sampling_uniform(const SamplingConfig& config, uint64_t sequence, uint32_t position) {
  return random_uniform(config.seed, kSite, sequence, position);
}

Draw draw_token(const float* logits, int64_t vocabulary, const SamplingConfig& config, uint64_t sequence, uint32_t position) {
  const float* best = first_maximum(logits, vocabulary);
  const bool greedy = config.temperature == 0;
  if (greedy && !config.log_probs) return {static_cast<int32_t>(best - logits), 0};
  const auto inverse_temperature = static_cast<float>(greedy ? 1.0 : 1.0 / config.temperature);
  static thread_local std::vector<float> weights;
  static thread_local std::vector<double> sums;
  weights.resize(static_cast<size_t>(vocabulary));
  sums.resize(static_cast<size_t>((vocabulary + kernels::kSamplingBlock - 1) / kernels::kSamplingBlock));
  kernels::kernel_table().exponentials(logits, vocabulary, *best, inverse_temperature, weights.data(), sums.data());
  const double total = std::accumulate(sums.begin(), sums.end(), 0.0);
  const auto drawn = [&](int64_t token) {
    return Draw{static_cast<int32_t>(token), static_cast<float>((double{logits[token]} - *best) * inverse_temperature - std::log(total))};
  };
  if (greedy) return drawn(best - logits);
  const double uniform = sampling_uniform(config, sequence, position);
  const bool some = config.top_k > 0 && config.top_k < vocabulary;
  if (!some && config.top_p >= 1) return drawn(pick(weights.data(), sums.data(), vocabulary, uniform * total));

  const auto order = by_probability(logits, vocabulary, some ? config.top_k : vocabulary);
  const auto weight = [&](size_t i) { return double{weights[static_cast<size_t>(order[i])]}; };
  double kept_total = 0;
  for (size_t i = 0; i < order.size(); ++i) kept_total += weight(i);
  size_t kept = order.size();
  if (config.top_p < 1) {
    double cumulated = 0;
    kept = 0;
    while (kept < order.size() && cumulated < config.top_p * kept_total) cumulated += weight(kept++);
    kept_total = cumulated;
  }
  double rest = uniform * kept_total;
  for (size_t i = 0; i + 1 < kept; ++i) {
    rest -= weight(i);
    if (rest < 0) return drawn(order[i]);
  }
  return drawn(order[kept - 1]);
}

}  // namespace tessera::inference
