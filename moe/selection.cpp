#include "moe/selection.h"

#include <algorithm>
#include <limits>

namespace tessera::moe {

namespace {
constexpr float kNever = -std::numeric_limits<float>::infinity();
}

Selector::Selector(const MoeConfig& config)
    : config_(config), values_(static_cast<size_t>(config.num_experts)), groups_(static_cast<size_t>(config.num_groups)) {}

void Selector::keep_best_groups() {
  const auto size = config_.num_experts / config_.num_groups;
  for (int64_t g = 0; g < config_.num_groups; ++g) {
    float best = kNever, second = kNever;
    for (int64_t e = g * size; e < (g + 1) * size; ++e) {
      const float value = values_[static_cast<size_t>(e)];
      second = std::max(second, std::min(best, value));
      best = std::max(best, value);
    }
    groups_[static_cast<size_t>(g)] = config_.group_score == GroupScore::kMax ? best : best + second;
  }
  std::vector<int64_t> order(groups_.size());
  for (size_t g = 0; g < order.size(); ++g) order[g] = static_cast<int64_t>(g);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return groups_[static_cast<size_t>(a)] > groups_[static_cast<size_t>(b)]; });
  for (int64_t i = config_.topk_groups; i < config_.num_groups; ++i) {
    const auto first = values_.begin() + order[static_cast<size_t>(i)] * size;
    std::fill(first, first + size, kNever);
  }
}

void Selector::choose(const float* scores, const float* bias, int32_t* chosen) {
  for (size_t e = 0; e < values_.size(); ++e) values_[e] = bias == nullptr ? scores[e] : scores[e] + bias[e];
  if (config_.topk_groups < config_.num_groups) keep_best_groups();
  for (int64_t k = 0; k < config_.experts_per_token; ++k) {
    const auto best = std::max_element(values_.begin(), values_.end());
    chosen[k] = static_cast<int32_t>(best - values_.begin());
    *best = kNever;
  }
}

}  // namespace tessera::moe
