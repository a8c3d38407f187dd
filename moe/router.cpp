#include "moe/router.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <memory>
#include <utility>

#include "core/error.h"
#include "kernels/gemm.h"
#include "moe/routing_math.h"

namespace tessera::moe {

namespace {

using kernels::Transpose;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What a forward pass keeps for the backward pass besides tensors.
struct RouteState : torch::CustomClassHolder {
  MoeConfig config;
  kernels::ParameterPtr weight, bias;
  RoutingTerms terms;
  at::Tensor imposed;                        // [T, K] int32 until the choice is made; or undefined
  at::Tensor experts;                        // [T, K] int32
  std::unique_ptr<SequenceBalance> balance;  // where its loss has a weight
};

/// Turns the gradient of the scores into that of the logits.
at::Tensor scores_backward(const at::Tensor& d_scores, const at::Tensor& scores, Scoring scoring) {
  if (scoring == Scoring::kSigmoid) return d_scores * scores * (1.0 - scores);
  return scores * (d_scores - (d_scores * scores).sum(1, true));
}

/// [E] int64.
at::Tensor count_choices(const at::Tensor& experts, int64_t num_experts) {
  const at::Tensor index = experts.reshape({-1}).to(at::kLong);
  return at::zeros({num_experts}, index.options()).scatter_add_(0, index, at::ones_like(index));
}

void add_to(at::Tensor& sum, const at::Tensor& x) { sum = sum.defined() ? sum + x : x.clone(); }

struct RouteFunction : torch::autograd::Function<RouteFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight, const c10::intrusive_ptr<RouteState>& state,
                            const std::vector<Segment>& segments, RoutingSums* sums) {
    const RoutingMath& math = routing_math(x);
    const MoeConfig& config = state->config;
    const RoutingTerms& terms = state->terms;
    const at::Tensor logits = math.logits(x, weight);
    const at::Tensor scores = config.scoring == Scoring::kSigmoid ? math.sigmoid(logits) : at::softmax(logits, 1);
    state->experts = math.choose(scores, state->bias ? state->bias->value : at::Tensor(), std::exchange(state->imposed, {}), config);
    if (terms.balance_weight > 0) {
      state->balance = math.balance(segments, state->experts, config, terms.balance_weight);
      if (!terms.again) add_to(sums->balance_loss, state->balance->loss(scores));
    }
    if (terms.z_weight > 0 && !terms.again) add_to(sums->z_loss, at::logsumexp(logits, 1).square().sum().to(at::kDouble) * terms.z_weight);
    ctx->save_for_backward({x, scores, terms.z_weight > 0 ? logits : at::Tensor()});
    ctx->saved_data["state"] = c10::IValue::make_capsule(state);
    return math.weights(scores, state->experts, config);
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto state = c10::static_intrusive_pointer_cast<RouteState>(ctx->saved_data["state"].toCapsule());
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &scores = saved[1], &logits = saved[2];
    const at::Tensor d_scores = routing_math(x).weights_backward(gradients[0].contiguous(), scores, state->experts, state->config);
    if (state->balance) state->balance->add_gradient(scores, d_scores);
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
  weight_->await();
  const at::Tensor weights = RouteFunction::apply(x, weight_->value, state, segments, &sums_);
  if (terms.statistics && !terms.again) add_to(sums_.counts, count_choices(state->experts, config_.num_experts));
  if (terms.record != nullptr && !terms.again) (*terms.record)[layer_] = state->experts;
  return {weights, state->experts};
}

}  // namespace tessera::moe
