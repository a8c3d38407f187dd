#include "rl/objectives.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace tessera::rl {

namespace {

/// min(x A, clip(x) A) and its derivative by x.
struct Clipped {
  double value = 0, slope = 0;
  bool clipped = false;
};

Clipped clipped_term(const PolicyConfig& c, double x, double advantage) {
  const double bounded = std::clamp(x, 1 - c.clip_low, 1 + c.clip_high);
  if (bounded * advantage < x * advantage) return {bounded * advantage, 0, true};
  return {x * advantage, advantage, false};
}

/// exp(d) - d - 1, without cancellation for small d.
double k3(double d) { return std::expm1(d) - d; }

/// One completion: pointers to its first token.
struct Completion {
  int64_t length = 0;
  double advantage = 0;
  const float *log_probs = nullptr, *old = nullptr, *reference = nullptr, *rollout = nullptr;
  float* derivatives = nullptr;

  [[nodiscard]] double log_ratio(int64_t t) const { return old == nullptr ? 0.0 : double{log_probs[t]} - old[t]; }
  /// The weight against the difference between the rollouts' log-probabilities and the training's.
  [[nodiscard]] double importance(const PolicyConfig& c, int64_t t) const {
    if (c.importance_cap <= 0) return 1;
    return std::min(std::exp(double{old == nullptr ? log_probs[t] : old[t]} - rollout[t]), c.importance_cap);
  }
};

double token_term(const PolicyConfig& config, const Completion& c, double weight, PolicyStatistics& statistics) {
  double loss = 0;
  for (int64_t t = 0; t < c.length; ++t) {
    const double ratio = std::exp(c.log_ratio(t));
    const Clipped term = clipped_term(config, ratio, c.advantage);
    const double share = weight * c.importance(config, t);
    loss -= share * term.value;
    c.derivatives[t] -= static_cast<float>(share * term.slope * ratio);
    statistics.clipped += term.clipped ? 1 : 0;
  }
  return loss;
}

/// Of one ratio for the whole completion, exp(`scale` times the sum of log ratios).
double completion_term(const PolicyConfig& config, const Completion& c, double weight, double scale, PolicyStatistics& statistics) {
  double log_ratio = 0, log_importance = 0;
  for (int64_t t = 0; t < c.length; ++t) {
    log_ratio += c.log_ratio(t);
    if (config.importance_cap > 0) log_importance += double{c.old == nullptr ? c.log_probs[t] : c.old[t]} - c.rollout[t];
  }
  const double ratio = std::exp(scale * log_ratio);
  const Clipped term = clipped_term(config, ratio, c.advantage);
  const double share = config.importance_cap > 0 ? weight * std::min(std::exp(scale * log_importance), config.importance_cap) : weight;
  const auto derivative = static_cast<float>(share * term.slope * ratio * scale);
  for (int64_t t = 0; t < c.length; ++t) c.derivatives[t] -= derivative;
  if (term.clipped) statistics.clipped += static_cast<double>(c.length);
  return -share * term.value;
}

double detached_term(const PolicyConfig& config, const Completion& c, double weight, PolicyStatistics& statistics) {
  double loss = 0;
  for (int64_t t = 0; t < c.length; ++t) {
    const double ratio = std::exp(c.log_ratio(t)), bounded = std::clamp(ratio, 1 - config.clip_low, 1 + config.clip_high);
    const double share = weight * c.importance(config, t) * bounded * c.advantage;
    loss -= share * c.log_probs[t];
    c.derivatives[t] -= static_cast<float>(share);
    statistics.clipped += bounded != ratio ? 1 : 0;
  }
  return loss;
}

double token_kl(const Completion& c, double weight) {
  double loss = 0;
  for (int64_t t = 0; t < c.length; ++t) {
    const double d = double{c.reference[t]} - c.log_probs[t];
    loss += weight * k3(d);
    c.derivatives[t] -= static_cast<float>(weight * std::expm1(d));
  }
  return loss;
}

double completion_kl(const Completion& c, double weight) {
  double d = 0;
  for (int64_t t = 0; t < c.length; ++t) d += double{c.reference[t]} - c.log_probs[t];
  for (int64_t t = 0; t < c.length; ++t) c.derivatives[t] -= static_cast<float>(weight * std::expm1(d));
  return weight * k3(d);
}

void add_statistics(const Completion& c, PolicyStatistics& s) {
  s.completions += 1;
  s.tokens += static_cast<double>(c.length);
  for (int64_t t = 0; t < c.length; ++t) {
    if (c.reference != nullptr) s.kl_reference += k3(double{c.reference[t]} - c.log_probs[t]);
    if (c.rollout != nullptr) s.kl_rollout += k3(double{c.log_probs[t]} - c.rollout[t]);
    s.largest_ratio = std::max(s.largest_ratio, std::abs(std::expm1(c.log_ratio(t))));
    if (c.old == nullptr && c.rollout != nullptr)
      s.largest_ratio = std::max(s.largest_ratio, std::abs(std::expm1(double{c.log_probs[t]} - c.rollout[t])));
  }
}

double completion_loss(const PolicyConfig& config, const PolicyDenominators& denominators, const Completion& c, PolicyStatistics& statistics) {
  const double per_rollout = 1.0 / static_cast<double>(denominators.rollouts), length = static_cast<double>(c.length);
  const double per_token = 1.0 / static_cast<double>(denominators.tokens);
  const double beta = c.reference != nullptr ? config.kl_coefficient : 0.0;
  const auto with_kl = [&](double loss, double weight) { return beta > 0 ? loss + token_kl(c, beta * weight) : loss; };
  if (config.objective == "grpo") {
    const double weight = per_rollout / length;
    return with_kl(token_term(config, c, weight, statistics), weight);
  }
  if (config.objective == "dr_grpo") {
    const double weight = per_rollout / static_cast<double>(config.max_new_tokens);
    return with_kl(token_term(config, c, weight, statistics), weight);
  }
  if (config.objective == "dapo") return with_kl(token_term(config, c, per_token, statistics), per_token);
  if (config.objective == "cispo") return with_kl(detached_term(config, c, per_token, statistics), per_token);
  if (config.objective == "gspo") return with_kl(completion_term(config, c, per_rollout, 1 / length, statistics), per_rollout / length);
  TESSERA_CHECK(config.objective == "r1_grpo", "objective ", config.objective);
  const double loss = completion_term(config, c, per_rollout, 1.0, statistics);
  return beta > 0 ? loss + completion_kl(c, beta * per_rollout) : loss;
}

}  // namespace

double policy_loss(const PolicyConfig& config, const PolicyDenominators& denominators, const PolicyBatch& batch, const float* log_probs,
                   float* derivatives, PolicyStatistics& statistics) {
  double loss = 0;
  int64_t begin = 0;
  for (size_t i = 0; i < batch.lengths.size(); ++i) {
    const auto at = [&](const std::vector<float>& values) { return values.empty() ? nullptr : values.data() + begin; };
    const Completion c{batch.lengths[i], batch.advantages[i], log_probs + begin, at(batch.old_log_probs), at(batch.reference), at(batch.rollout),
                       derivatives + begin};
    std::fill(c.derivatives, c.derivatives + c.length, 0.0f);
    loss += completion_loss(config, denominators, c, statistics);
    add_statistics(c, statistics);
    begin += batch.lengths[i];
  }
  return loss;
}

}  // namespace tessera::rl
