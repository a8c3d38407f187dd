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
  std::vector<at::Tensor> parts;
  for (const auto& runs : runs_)
    for (const auto& run : runs) parts.push_back(owned_.buckets()[run.bucket]->owned_gradient.narrow(0, run.begin, run.count));
  return parts.empty() ? 0.0 : kernels::sum_of_squares(parts).item<double>();
}

kernels::AdamWUpdate AdamW::update_of(const Run& run, int64_t step) const {
  const auto& bucket = *owned_.buckets()[run.bucket];
  const auto part = [&](const at::Tensor& flat) { return flat.narrow(0, run.begin, run.count); };
  kernels::AdamWUpdate update{part(bucket.master.detach()), part(bucket.owned_gradient), {part(exp_avg_[run.bucket]), part(exp_avg_sq_[run.bucket]), {}},
                              run.decay ? config_.weight_decay : 0.0};
  if (config_.moment_rounding == "stochastic") update.moments.noise = {run.key + static_cast<uint64_t>(step) * 0x9E3779B97F4A7C15U, run.first};
  return update;
}

void AdamW::step(double lr, int64_t step, double gradient_scale) {
  const at::NoGradGuard no_grad;
  const kernels::AdamWStep terms{.lr = lr, .beta1 = config_.betas[0], .beta2 = config_.betas[1], .eps = config_.eps, .step = step,
                                 .gradient_scale = gradient_scale};
  size_t first = 0;
  for (auto* flat : flat_) {
    for (size_t b = flat->buckets().size(); b-- > 0;) {  // they lie in the order of the backward pass
      std::vector<kernels::AdamWUpdate> updates;
      for (const auto& run : runs_[first + b]) updates.push_back(update_of(run, step));
      kernels::adamw(updates, terms);
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
  owned_.read("weight", owned_.weights(), weights, reader);
  for (auto* flat : flat_) {
    for (size_t b = flat->buckets().size(); b-- > 0;) flat->start_gather(b);
    flat->finish_gather();
  }
  owned_.read("exp_avg", exp_avg_, weights, reader);
  owned_.read("exp_avg_sq", exp_avg_sq_, weights, reader);
}

}  // namespace tessera::trainer
