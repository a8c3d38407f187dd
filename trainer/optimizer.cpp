#include "trainer/optimizer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "core/error.h"
#include "kernels/optimizer.h"

namespace tessera::trainer {

AdamW::AdamW(const std::vector<parallel::FlatBuckets*>& buckets, const OptimizerConfig& config) : flat_(buckets), config_(config) {
  for (auto* flat : buckets)
    for (auto& bucket : flat->buckets()) buckets_.push_back(&bucket);
  for (size_t b = 0; b < buckets_.size(); ++b) {
    const auto& bucket = *buckets_[b];
    exp_avg_.push_back(at::zeros_like(bucket.owned_gradient));
    exp_avg_sq_.push_back(at::zeros_like(bucket.owned_gradient));
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
    total += kernels::sum_of_squares(buckets_[run.bucket]->owned_gradient.const_data_ptr<float>() + run.begin, run.end - run.begin);
  return total;
}

void AdamW::step(double lr, int64_t step, double gradient_scale) {
  kernels::AdamWStep update{.lr = lr, .beta1 = config_.betas[0], .beta2 = config_.betas[1], .eps = config_.eps,
                            .weight_decay = 0, .step = step, .gradient_scale = gradient_scale};
  const auto update_bucket = [&](size_t index) {
    auto& bucket = *buckets_[index];
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

std::vector<AdamW::Overlap> AdamW::overlaps(const model::NamedWeight& weight) const {
  std::vector<Overlap> found;
  for (size_t b = 0; b < buckets_.size(); ++b) {
    const auto& bucket = *buckets_[b];
    for (const auto& placement : bucket.placements) {
      if (placement.parameter != weight.parameter.get()) continue;
      const int64_t first = placement.offset + weight.offset();
      const int64_t begin = std::max(bucket.owned_begin, first);
      const int64_t end = std::min(bucket.owned_end, first + weight.numel());
      if (begin < end) found.push_back({b, begin, begin - first, end - begin});
    }
  }
  return found;
}

at::Tensor AdamW::moment(const std::vector<at::Tensor>& moments, const Overlap& o) const {
  return moments[o.bucket].narrow(0, o.bucket_begin - buckets_[o.bucket]->owned_begin, o.count);
}

std::vector<checkpoint::OwnedRange> AdamW::owned_ranges(const std::vector<model::NamedWeight>& weights) const {
  std::vector<checkpoint::OwnedRange> ranges;
  for (const auto& weight : weights) {
    for (const Overlap& o : overlaps(weight)) {
      ranges.push_back({"weight", weight.name, o.weight_begin,
                        buckets_[o.bucket]->value.narrow(0, o.bucket_begin, o.count)});
      ranges.push_back({"exp_avg", weight.name, o.weight_begin, moment(exp_avg_, o)});
      ranges.push_back({"exp_avg_sq", weight.name, o.weight_begin, moment(exp_avg_sq_, o)});
    }
  }
  return ranges;
}

void AdamW::load(const std::vector<model::NamedWeight>& weights, checkpoint::CheckpointReader& reader) {
  at::NoGradGuard no_grad;
  for (const auto& weight : weights) {
    if (!weight.parameter->trainable()) continue;
    reader.read("weight", weight.name, 0, weight.view().view({-1}));
    for (const Overlap& o : overlaps(weight)) {
      reader.read("exp_avg", weight.name, o.weight_begin, moment(exp_avg_, o));
      reader.read("exp_avg_sq", weight.name, o.weight_begin, moment(exp_avg_sq_, o));
    }
  }
}

}  // namespace tessera::trainer
