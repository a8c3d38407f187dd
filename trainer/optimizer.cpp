#include "trainer/optimizer.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "core/error.h"
#include "core/hash.h"

namespace tessera::trainer {

namespace {

at::ScalarType moments_type(const OptimizerConfig& config) { return config.moments == "bfloat16" ? at::kBFloat16 : at::kFloat; }

}  // namespace

AdamW::AdamW(const std::vector<parallel::FlatBuckets*>& buckets, const std::vector<model::NamedWeight>& weights, const OptimizerConfig& config,
             uint64_t seed)
    : flat_(buckets), owned_(buckets), config_(config), exp_avg_(owned_.zeros(moments_type(config))), exp_avg_sq_(owned_.zeros(moments_type(config))),
      runs_(owned_.buckets().size()) {
  int64_t listed = 0, owned = 0;
  for (const auto& weight : weights) {
    const int64_t rows_before = weight.shape.empty() ? 0 : weight.file_row_begin * (weight.numel() / weight.shape[0]);
    for (const auto& o : owned_.overlaps(weight)) {
      // Norms and biases, tensors of one dimension, are not decayed.
      runs_[o.bucket].push_back({.bucket = o.bucket, .begin = o.slice_begin, .count = o.count, .decay = weight.parameter->value.dim() >= 2,
                                 .key = hash64(weight.name) ^ seed, .first = rows_before + o.weight_begin});
      listed += o.count;
    }
  }
  for (auto& runs : runs_) std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.begin < b.begin; });
  for (const auto* flat : flat_) owned += flat->num_owned();
  TESSERA_CHECK(listed == owned, "weights list ", listed, " of ", owned, " elements to update");
}

double AdamW::local_sum_of_squares() const {
  double total = 0;
  for (const auto& runs : runs_)
    for (const auto& run : runs)
      total += kernels::sum_of_squares(owned_.buckets()[run.bucket]->owned_gradient.const_data_ptr<float>() + run.begin, run.count);
  return total;
}

void AdamW::update(const Run& run, const kernels::AdamWStep& step) const {
  const auto& bucket = *owned_.buckets()[run.bucket];
  const kernels::MomentNoise noise{run.key + static_cast<uint64_t>(step.step) * 0x9E3779B97F4A7C15U, run.first};
  const kernels::Moments moments{exp_avg_[run.bucket].narrow(0, run.begin, run.count), exp_avg_sq_[run.bucket].narrow(0, run.begin, run.count),
                                 config_.moment_rounding == "stochastic" ? &noise : nullptr};
  kernels::adamw(bucket.master.data_ptr<float>() + run.begin, bucket.owned_gradient.const_data_ptr<float>() + run.begin, moments, run.count, step);
}

void AdamW::step(double lr, int64_t step, double gradient_scale) {
  const at::NoGradGuard no_grad;
  kernels::AdamWStep terms{.lr = lr, .beta1 = config_.betas[0], .beta2 = config_.betas[1], .eps = config_.eps,
                           .weight_decay = 0, .step = step, .gradient_scale = gradient_scale};
  size_t first = 0;
  for (auto* flat : flat_) {
    for (size_t b = flat->buckets().size(); b-- > 0;) {  // they lie in the order of the backward pass
      for (const auto& run : runs_[first + b]) {
        terms.weight_decay = run.decay ? config_.weight_decay : 0.0;
        update(run, terms);
      }
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
  for (auto* flat : flat_) flat->adopt_values();
  owned_.read("exp_avg", exp_avg_, weights, reader);
  owned_.read("exp_avg_sq", exp_avg_sq_, weights, reader);
}

}  // namespace tessera::trainer
