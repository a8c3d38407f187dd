#include "trainer/optimizer.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "core/error.h"
#include "kernels/optimizer.h"

namespace tessera::trainer {

AdamW::AdamW(const std::vector<parallel::FlatBuckets*>& buckets, const OptimizerConfig& config) : flat_(buckets), owned_(buckets), config_(config), exp_avg_(owned_.zeros()), exp_avg_sq_(owned_.zeros()) {
  for (size_t b = 0; b < owned_.buckets().size(); ++b) {
    const auto& bucket = *owned_.buckets()[b];
    for (const auto& placement : bucket.placements) {
      const int64_t begin = std::max(bucket.owned_begin, placement.offset) - bucket.owned_begin;
      const int64_t end = std::min(bucket.owned_end, placement.offset + placement.numel) - bucket.owned_begin;
      // Norms and biases, tensors of one dimension, are not decayed.
      if (begin < end) runs_.push_back({b, begin, end, placement.parameter->value.dim() >= 2});
    }
  }
}

double AdamW::local_sum_of_squares() const {
  double total = 0;
  for (const auto& run : runs_)
    total += kernels::sum_of_squares(owned_.buckets()[run.bucket]->owned_gradient.const_data_ptr<float>() + run.begin, run.end - run.begin);
  return total;
}

void AdamW::step(double lr, int64_t step, double gradient_scale) {
  kernels::AdamWStep update{.lr = lr, .beta1 = config_.betas[0], .beta2 = config_.betas[1], .eps = config_.eps,
                            .weight_decay = 0, .step = step, .gradient_scale = gradient_scale};
  const auto update_bucket = [&](size_t index) {
    auto& bucket = *owned_.buckets()[index];
    for (const auto& run : runs_) {
      if (run.bucket != index) continue;
      update.weight_decay = run.decay ? config_.weight_decay : 0.0;
      kernels::adamw(bucket.value.data_ptr<float>() + bucket.owned_begin + run.begin, bucket.owned_gradient.const_data_ptr<float>() + run.begin,
                     exp_avg_[index].data_ptr<float>() + run.begin, exp_avg_sq_[index].data_ptr<float>() + run.begin, run.end - run.begin, update);
    }
  };
  size_t first = 0;
  for (auto* flat : flat_) {
    for (size_t b = flat->buckets().size(); b-- > 0;) {  // they lie in the order of the backward pass
      update_bucket(first + b);
      flat->start_gather(b);
    }
    first += flat->buckets().size();
  }
}

std::vector<checkpoint::OwnedRange> AdamW::owned_ranges(const std::vector<model::NamedWeight>& weights) const {
  std::vector<checkpoint::OwnedRange> ranges;
  owned_.list("weight", owned_.weights(), weights, ranges);
  owned_.list("exp_avg", exp_avg_, weights, ranges);
  owned_.list("exp_avg_sq", exp_avg_sq_, weights, ranges);
  return ranges;
}

void AdamW::load(const std::vector<model::NamedWeight>& weights, checkpoint::CheckpointReader& reader) {
  at::NoGradGuard no_grad;
  for (const auto& weight : weights)
    if (weight.parameter->trainable()) reader.read("weight", weight.name, 0, weight.view().view({-1}));
  owned_.read("exp_avg", exp_avg_, weights, reader);
  owned_.read("exp_avg_sq", exp_avg_sq_, weights, reader);
}

}  // namespace tessera::trainer
