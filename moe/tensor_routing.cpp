#include "moe/tensor_routing.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "kernels/accelerator.h"

namespace tessera::moe {

namespace {

at::Tensor chosen_sum(const at::Tensor& chosen, const MoeConfig& config) {
  return config.norm_topk_prob ? chosen.sum(1, true).add(kNormEpsilon) : at::ones_like(chosen.narrow(1, 0, 1));
}

}  // namespace

at::Tensor chosen_weights(const at::Tensor& scores, const at::Tensor& experts, const MoeConfig& config) {
  const at::Tensor chosen = scores.gather(1, experts.to(at::kLong));
  return chosen.div(chosen_sum(chosen, config)).mul_(config.routed_scaling_factor);
}

at::Tensor chosen_weights_backward(const at::Tensor& d_weights, const at::Tensor& scores, const at::Tensor& experts, const MoeConfig& config) {
  const at::Tensor index = experts.to(at::kLong), chosen = scores.gather(1, index), sum = chosen_sum(chosen, config);
  at::Tensor d = d_weights;
  if (config.norm_topk_prob) d = d - (d * chosen / sum).sum(1, true);
  // A token's choices are distinct: nothing is added twice.
  return at::zeros_like(scores).scatter_(1, index, d.mul(config.routed_scaling_factor).div(sum));
}

at::Tensor count_choices(const at::Tensor& experts, int64_t num_experts) {
  const at::Tensor index = experts.reshape({-1}).to(at::kLong);
  return at::zeros({num_experts}, index.options()).scatter_add_(0, index, at::ones_like(index));
}

SequenceBalance::SequenceBalance(const std::vector<Segment>& segments, const at::Tensor& experts, const MoeConfig& config, double weight) {
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

at::Tensor SequenceBalance::loss(const at::Tensor& scores) const {
  return (f_TE_ * scores).sum(1, true).div(scores.sum(1, true)).mul(factor_T1_).sum();
}

at::Tensor SequenceBalance::backward(const at::Tensor& scores) const {
  const at::Tensor sum = scores.sum(1, true), mean = (f_TE_ * scores).sum(1, true).div(sum);
  return (f_TE_ - mean).mul_(factor_T1_).div_(sum);
}

}  // namespace tessera::moe
