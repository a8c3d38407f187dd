#include "moe/router.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "core/error.h"
#include "kernels/accelerator.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/gemm.h"
#include "kernels/threads.h"
#include "moe/selection.h"
#include "moe/tensor_routing.h"

namespace tessera::moe {

namespace {

using kernels::Transpose;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What a forward pass keeps for the backward pass besides tensors.
struct RouteState : torch::CustomClassHolder {
  MoeConfig config;
  kernels::ParameterPtr weight, bias;
  std::vector<Segment> segments;
  RoutingTerms terms;
  at::Tensor imposed;                   // [T, K] int32 until the choice is made; or undefined
  at::Tensor experts;                   // [T, K] int32
  std::vector<int64_t> segment_counts;  // [segments, E], with a balance loss
  std::optional<SequenceBalance> balance;  // the same on a device
};

void choose_experts(const at::Tensor& scores, RouteState& state) {
  const int64_t tokens = scores.size(0), num_experts = scores.size(1), k = state.config.experts_per_token;
  if (const auto* device = kernels::accelerator_of(scores)) {
    const MoeConfig& c = state.config;
    TESSERA_CHECK(!state.imposed.defined(), "choices cannot be imposed on a device");
    state.experts = device->choose_experts(scores, state.bias ? state.bias->value : at::Tensor(),
                                           {num_experts, k, c.num_groups, c.topk_groups, c.group_score == GroupScore::kMax});
    return;
  }
  state.experts = at::empty({tokens, k}, at::kInt);
  const float *score = scores.const_data_ptr<float>(), *bias = state.bias ? state.bias->value.const_data_ptr<float>() : nullptr;
  const int32_t* imposed = state.imposed.defined() ? state.imposed.const_data_ptr<int32_t>() : nullptr;
  int32_t* chosen = state.experts.data_ptr<int32_t>();
  kernels::for_each_chunk(tokens, 16, [&](int64_t, int64_t begin, int64_t end) {
    Selector selector(state.config);
    for (int64_t t = begin; t < end; ++t) {
      if (imposed != nullptr && imposed[t * k] >= 0) {
        std::copy_n(imposed + t * k, k, chosen + t * k);
      } else {
        selector.choose(score + t * num_experts, bias, chosen + t * k);
      }
    }
  });
  state.imposed.reset();
}

/// weights[t, k] of the chosen scores; `sum` is 1 when they are not normalised.
float chosen_sum(const MoeConfig& config, const float* scores, const int32_t* chosen) {
  if (!config.norm_topk_prob) return 1.0f;
  float sum = 0;
  for (int64_t k = 0; k < config.experts_per_token; ++k) sum += scores[chosen[k]];
  return sum + kNormEpsilon;
}

at::Tensor chosen_weights(const at::Tensor& scores, const RouteState& state) {
  if (kernels::accelerator_of(scores) != nullptr) return chosen_weights(scores, state.experts, state.config);
  const int64_t tokens = scores.size(0), num_experts = scores.size(1), choices = state.config.experts_per_token;
  at::Tensor weights = at::empty({tokens, choices}, scores.options());
  const auto scale = static_cast<float>(state.config.routed_scaling_factor);
  const float* score = scores.const_data_ptr<float>();
  const int32_t* chosen = state.experts.const_data_ptr<int32_t>();
  float* w = weights.data_ptr<float>();
  for (int64_t t = 0; t < tokens; ++t) {
    const float sum = chosen_sum(state.config, score + t * num_experts, chosen + t * choices);
    for (int64_t k = 0; k < choices; ++k) w[t * choices + k] = score[t * num_experts + chosen[t * choices + k]] / sum * scale;
  }
  return weights;
}

/// d_scores of the chosen weights.
void weights_backward(const at::Tensor& d_weights, const at::Tensor& scores, const RouteState& state, at::Tensor& d_scores) {
  if (kernels::accelerator_of(scores) != nullptr) {
    d_scores = chosen_weights_backward(d_weights, scores, state.experts, state.config);
    return;
  }
  const int64_t tokens = scores.size(0), num_experts = scores.size(1), choices = state.config.experts_per_token;
  const auto scale = static_cast<float>(state.config.routed_scaling_factor);
  const float *score = scores.const_data_ptr<float>(), *dw = d_weights.const_data_ptr<float>();
  const int32_t* chosen = state.experts.const_data_ptr<int32_t>();
  float* ds = d_scores.data_ptr<float>();
  for (int64_t t = 0; t < tokens; ++t) {
    const float* s = score + t * num_experts;
    const int32_t* c = chosen + t * choices;
    const float sum = chosen_sum(state.config, s, c);
    float mean = 0;  // of d_weights under the normalised weights
    if (state.config.norm_topk_prob)
      for (int64_t k = 0; k < choices; ++k) mean += dw[t * choices + k] * s[c[k]] / sum;
    for (int64_t k = 0; k < choices; ++k) ds[t * num_experts + c[k]] += scale * (dw[t * choices + k] - mean) / sum;
  }
}

/// Runs body(segment's number, segment, f) with f [E], the share of the segment's choices times E.
template <typename Body>
void for_each_sequence(const RouteState& state, const Body& body) {
  const int64_t num_experts = state.config.num_experts;
  std::vector<double> f(static_cast<size_t>(num_experts));
  for (size_t i = 0; i < state.segments.size(); ++i) {
    const Segment& segment = state.segments[i];
    for (int64_t e = 0; e < num_experts; ++e)
      f[static_cast<size_t>(e)] = static_cast<double>(num_experts * state.segment_counts[i * static_cast<size_t>(num_experts) + static_cast<size_t>(e)]) /
                                  static_cast<double>(state.config.experts_per_token * segment.length);
    body(segment, f);
  }
}

double score_sum(const float* s, int64_t count) {
  double sum = 0;
  for (int64_t e = 0; e < count; ++e) sum += double{s[e]};
  return sum;
}

/// Sequence-wise balance loss: the sum over segments of balance_weight * sum_i f_i P_i, P_i the mean normalised score.
double balance_loss(const at::Tensor& scores, const RouteState& state) {
  const int64_t num_experts = scores.size(1);
  const float* score = scores.const_data_ptr<float>();
  double loss = 0;
  for_each_sequence(state, [&](const Segment& segment, const std::vector<double>& f) {
    for (int64_t t = segment.start; t < segment.start + segment.length; ++t) {
      const float* s = score + t * num_experts;
      double dot = 0;
      for (int64_t e = 0; e < num_experts; ++e) dot += f[static_cast<size_t>(e)] * s[e];
      loss += state.terms.balance_weight * dot / score_sum(s, num_experts) / static_cast<double>(segment.length);
    }
  });
  return loss;
}

void balance_backward(const at::Tensor& scores, const RouteState& state, at::Tensor& d_scores) {
  if (state.balance) {
    d_scores.add_(state.balance->backward(scores));
    return;
  }
  const int64_t num_experts = scores.size(1);
  const float* score = scores.const_data_ptr<float>();
  float* ds = d_scores.data_ptr<float>();
  for_each_sequence(state, [&](const Segment& segment, const std::vector<double>& f) {
    const double factor = state.terms.balance_weight / static_cast<double>(segment.length);
    for (int64_t t = segment.start; t < segment.start + segment.length; ++t) {
      const float* s = score + t * num_experts;
      const double sum = score_sum(s, num_experts);
      double mean = 0;
      for (int64_t e = 0; e < num_experts; ++e) mean += f[static_cast<size_t>(e)] * s[e] / sum;
      for (int64_t e = 0; e < num_experts; ++e)
        ds[t * num_experts + e] += static_cast<float>(factor * (f[static_cast<size_t>(e)] - mean) / sum);
    }
  });
}

std::vector<int64_t> count_by_segment(const RouteState& state) {
  const int64_t num_experts = state.config.num_experts, choices = state.config.experts_per_token;
  std::vector<int64_t> counts(state.segments.size() * static_cast<size_t>(num_experts));
  const int32_t* chosen = state.experts.const_data_ptr<int32_t>();
  for (size_t i = 0; i < state.segments.size(); ++i) {
    const Segment& segment = state.segments[i];
    for (int64_t slot = segment.start * choices; slot < (segment.start + segment.length) * choices; ++slot)
      ++counts[i * static_cast<size_t>(num_experts) + static_cast<size_t>(chosen[slot])];
  }
  return counts;
}

/// Turns the gradient of the scores into that of the logits.
at::Tensor scores_backward(const at::Tensor& d_scores, const at::Tensor& scores, Scoring scoring) {
  if (scoring == Scoring::kSigmoid) return d_scores * scores * (1.0 - scores);
  return scores * (d_scores - (d_scores * scores).sum(1, true));
}

/// at::sigmoid takes another way for the last elements, so that a token's scores would depend on how many others there are.
at::Tensor sigmoid_of(const at::Tensor& x) {
  if (kernels::accelerator_of(x) != nullptr) return x.sigmoid();
  at::Tensor y = at::empty(x.sizes(), x.options());  // x may be rows of a larger tensor
  const at::Tensor dense = x.contiguous();
  kernels::kernel_table().sigmoid(dense.const_data_ptr<float>(), dense.numel(), y.data_ptr<float>());
  return y;
}

/// x w^T in float32.
at::Tensor logits_of(const at::Tensor& x, const at::Tensor& weight) {
  if (kernels::accelerator_of(x) == nullptr) return kernels::product_with_transposed(x, weight);
  at::Tensor logits = at::empty({x.size(0), weight.size(0)}, x.options().dtype(at::kFloat));
  kernels::gemm(x, Transpose::kNo, weight, Transpose::kYes, logits);
  return logits;
}

void add_to(at::Tensor& sum, const at::Tensor& x) { sum = sum.defined() ? sum + x : x.clone(); }

/// Losses of one forward pass.
void add_losses(const at::Tensor& logits, const at::Tensor& scores, RouteState& state, RouterStatistics& statistics, DeviceStatistics& on_device) {
  const bool device = kernels::accelerator_of(scores) != nullptr, count = !state.terms.again;
  if (state.terms.balance_weight > 0) {
    if (device) {
      state.balance.emplace(state.segments, state.experts, state.config, state.terms.balance_weight);
      if (count) add_to(on_device.balance_loss, state.balance->loss(scores).to(at::kDouble));
    } else {
      state.segment_counts = count_by_segment(state);
      if (count) statistics.balance_loss += balance_loss(scores, state);
    }
  }
  if (state.terms.z_weight > 0 && count) {
    const at::Tensor sum = at::logsumexp(logits, 1).square().sum();
    if (device) {
      add_to(on_device.z_loss, sum.to(at::kDouble) * state.terms.z_weight);
    } else {
      statistics.z_loss += state.terms.z_weight * sum.item<double>();
    }
  }
}

struct RouteFunction : torch::autograd::Function<RouteFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const c10::intrusive_ptr<RouteState>& state, RouterStatistics* statistics, DeviceStatistics* on_device) {
    const at::Tensor logits = logits_of(x, weight);
    const at::Tensor scores = state->config.scoring == Scoring::kSigmoid ? sigmoid_of(logits) : at::softmax(logits, 1);
    choose_experts(scores, *state);
    const at::Tensor weights = chosen_weights(scores, *state);
    add_losses(logits, scores, *state, *statistics, *on_device);
    ctx->save_for_backward({x, scores, state->terms.z_weight > 0 ? logits : at::Tensor()});
    ctx->saved_data["state"] = c10::IValue::make_capsule(state);
    return weights;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto state = c10::static_intrusive_pointer_cast<RouteState>(ctx->saved_data["state"].toCapsule());
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &scores = saved[1], &logits = saved[2];
    at::Tensor d_scores = at::zeros_like(scores);
    weights_backward(gradients[0].contiguous(), scores, *state, d_scores);
    if (state->terms.balance_weight > 0) balance_backward(scores, *state, d_scores);
    at::Tensor d_logits = scores_backward(d_scores, scores, state->config.scoring);
    if (state->terms.z_weight > 0)
      d_logits += 2.0 * state->terms.z_weight * at::logsumexp(logits, 1, true) * at::softmax(logits, 1);
    kernels::Parameter& weight = *state->weight;
    if (weight.trainable()) {
      kernels::gemm(d_logits, Transpose::kYes, x, Transpose::kNo, weight.open_gradient(), 1.0, 1.0);
      weight.gradient_added();
    }
    at::Tensor dx = at::empty(x.sizes(), x.options());
    kernels::gemm(d_logits, Transpose::kNo, weight.value.detach(), Transpose::kNo, dx);
    return {dx, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

Router::Router(const MoeConfig& config, int64_t dim, int64_t layer)
    : config_(config), layer_(layer), weight_(kernels::make_parameter({config.num_experts, dim})) {
  if (config.correction_bias) bias_ = kernels::make_parameter({config.num_experts});
  reset_statistics();
}

const RouterStatistics& Router::statistics() {
  const DeviceStatistics there = std::exchange(device_statistics_, {});
  if (there.counts.defined()) {
    const at::Tensor counts = there.counts.cpu();
    for (size_t e = 0; e < statistics_.counts.size(); ++e) statistics_.counts[e] += counts.const_data_ptr<int64_t>()[e];
  }
  if (there.balance_loss.defined()) statistics_.balance_loss += there.balance_loss.item<double>();
  if (there.z_loss.defined()) statistics_.z_loss += there.z_loss.item<double>();
  return statistics_;
}

void Router::reset_statistics() {
  device_statistics_ = {};
  statistics_ = {};
  statistics_.counts.assign(static_cast<size_t>(config_.num_experts), 0);
}

at::Tensor Router::imposed(const RoutingTerms& terms, int64_t tokens) const {
  if (terms.imposed == nullptr) return {};
  const auto found = terms.imposed->find(layer_);
  if (found == terms.imposed->end()) return {};
  const at::Tensor& experts = found->second;
  TESSERA_CHECK(experts.size(0) == tokens && experts.size(1) == config_.experts_per_token, "choices ", experts.sizes(), " for ", tokens,
                " tokens of layer ", layer_);
  return experts;
}

Routing Router::route(const at::Tensor& x, const std::vector<Segment>& segments, const RoutingTerms& terms) {
  auto state = c10::make_intrusive<RouteState>();
  state->config = config_;
  state->weight = weight_;
  state->bias = bias_;
  if (terms.statistics) state->terms = terms;
  state->imposed = imposed(terms, x.size(0));
  if (state->terms.balance_weight > 0) state->segments = segments;
  weight_->await();
  const at::Tensor weights = RouteFunction::apply(x, weight_->value, state, &statistics_, &device_statistics_);
  if (terms.statistics && !terms.again && kernels::accelerator_of(x) != nullptr) {
    add_to(device_statistics_.counts, count_choices(state->experts, config_.num_experts));
  } else if (terms.statistics && !terms.again) {
    const int32_t* chosen = state->experts.const_data_ptr<int32_t>();
    for (int64_t i = 0; i < state->experts.numel(); ++i) ++statistics_.counts[static_cast<size_t>(chosen[i])];
  }
  if (terms.record != nullptr && !terms.again) (*terms.record)[layer_] = state->experts;
  return {weights, state->experts};
}

}  // namespace tessera::moe
