#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "kernels/accelerator.h"
#include "kernels/gemm.h"
#include "moe/routing_math.h"

namespace tessera::moe {

namespace {

using kernels::Transpose;

at::Tensor chosen_sum(const at::Tensor& chosen, const MoeConfig& config) {
  return config.norm_topk_prob ? chosen.sum(1, true).add(kNormEpsilon) : at::ones_like(chosen.narrow(1, 0, 1));
}

/// Legend: S segments; a token of none is in the last of S + 1.
class TensorBalance final : public SequenceBalance {
 public:
  TensorBalance(const std::vector<Segment>& segments, const at::Tensor& experts, const MoeConfig& config, double weight) {
    const int64_t tokens = experts.size(0), count = static_cast<int64_t>(segments.size()), num_experts = config.num_experts;
    at::Tensor segment_of = at::full({tokens}, count, at::kLong), share = at::zeros({count + 1, 1}, at::kFloat), factor = at::zeros({count + 1, 1}, at::kFloat);
    for (int64_t s = 0; s < count; ++s) {
      const Segment& segment = segments[static_cast<size_t>(s)];
      segment_of.narrow(0, segment.start, segment.length).fill_(s);
      share.data_ptr<float>()[s] = static_cast<float>(static_cast<double>(num_experts) / static_cast<double>(config.experts_per_token * segment.length));
      factor.data_ptr<float>()[s] = static_cast<float>(weight / static_cast<double>(segment.length));
    }
    const at::Tensor place = kernels::beside(experts, segment_of);
    const at::Tensor cell = place.unsqueeze(1).mul(num_experts).add(experts).reshape({-1});
    const at::Tensor counts = at::zeros({(count + 1) * num_experts}, cell.options()).scatter_add_(0, cell, at::ones_like(cell));
    const at::Tensor f = counts.view({count + 1, num_experts}).to(at::kFloat).mul_(kernels::beside(experts, share));
    f_TE_ = f.index_select(0, place);
    factor_T1_ = kernels::beside(experts, factor).index_select(0, place);
  }

  [[nodiscard]] at::Tensor loss(const at::Tensor& scores) const override {
    return (f_TE_ * scores).sum(1, true).div(scores.sum(1, true)).mul(factor_T1_).sum().to(at::kDouble);
  }

  void add_gradient(const at::Tensor& scores, const at::Tensor& d_scores) const override {
    const at::Tensor sum = scores.sum(1, true), mean = (f_TE_ * scores).sum(1, true).div(sum);
    d_scores.add_((f_TE_ - mean).mul_(factor_T1_).div_(sum));
  }

 private:
  at::Tensor f_TE_;       // each token's segment's f
  at::Tensor factor_T1_;  // weight / length of its segment; 0 for a token of none
};

class TensorRouting final : public RoutingMath {
 public:
  [[nodiscard]] at::Tensor logits(const at::Tensor& x, const at::Tensor& w) const override {
    at::Tensor logits = at::empty({x.size(0), w.size(0)}, x.options().dtype(at::kFloat));
    kernels::gemm(x, Transpose::kNo, w, Transpose::kYes, logits);
    return logits;
  }

  [[nodiscard]] at::Tensor sigmoid(const at::Tensor& x) const override { return x.sigmoid(); }

  [[nodiscard]] at::Tensor choose(const at::Tensor& scores, const at::Tensor& bias, const at::Tensor& imposed, const MoeConfig& c) const override {
    const at::Tensor best = kernels::accelerator_of(scores)->choose_experts(
        scores, bias, {c.num_experts, c.experts_per_token, c.num_groups, c.topk_groups, c.group_score == GroupScore::kMax});
    if (!imposed.defined()) return best;
    const at::Tensor given = kernels::beside(scores, imposed);
    return at::where(given.narrow(1, 0, 1).ge(0), given, best);
  }

  [[nodiscard]] at::Tensor weights(const at::Tensor& scores, const at::Tensor& experts, const MoeConfig& config) const override {
    const at::Tensor chosen = scores.gather(1, experts.to(at::kLong));
    return chosen.div(chosen_sum(chosen, config)).mul_(config.routed_scaling_factor);
  }

  [[nodiscard]] at::Tensor weights_backward(const at::Tensor& d_weights, const at::Tensor& scores, const at::Tensor& experts,
                                            const MoeConfig& config) const override {
    const at::Tensor index = experts.to(at::kLong), chosen = scores.gather(1, index), sum = chosen_sum(chosen, config);
    at::Tensor d = d_weights;
    if (config.norm_topk_prob) d = d - (d * chosen / sum).sum(1, true);
    // A token's choices are distinct: nothing is added twice.
    return at::zeros_like(scores).scatter_(1, index, d.mul(config.routed_scaling_factor).div(sum));
  }

  [[nodiscard]] std::unique_ptr<SequenceBalance> balance(const std::vector<Segment>& segments, const at::Tensor& experts, const MoeConfig& config,
                                                         double weight) const override {
    return std::make_unique<TensorBalance>(segments, experts, config, weight);
  }
};

}  // namespace

const RoutingMath& tensor_routing() {
  static const TensorRouting routing;
  return routing;
}

const RoutingMath& routing_math(const at::Tensor& x) { return kernels::accelerator_of(x) == nullptr ? host_routing() : tensor_routing(); }

}  // namespace tessera::moe
