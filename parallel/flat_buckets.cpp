#include "parallel/flat_buckets.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace tessera::parallel {

namespace {
constexpr int64_t kAlignment = 16;  // floats: 64 bytes, so that a GEMM sees the same alignment in every layout
constexpr size_t kTravelling = 2;      // buckets that stage 2 lets travel before it waits for the first
int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
}  // namespace

FlatBuckets::FlatBuckets(const std::vector<Item>& items, Communicator& dp, BucketOptions options)
    : dp_(dp), options_(std::move(options)), sharded_(options_.zero_stage >= 2 && dp.size() > 1) {
  int64_t size = 0;
  const auto close = [&] {
    if (buckets_.empty() || buckets_.back().placements.empty()) return;
    Bucket& bucket = buckets_.back();
    const int64_t padded = round_up(size, kAlignment * dp_.size()), owned = padded / dp_.size();
    const auto device = bucket.placements.front().parameter->value.options();
    bucket.owned_begin = owned * dp_.rank();
    bucket.owned_end = bucket.owned_begin + owned;
    bucket.value = at::zeros({padded}, device);
    bucket.master = narrow_values() ? at::zeros({owned}, device) : bucket.value.narrow(0, bucket.owned_begin, owned);
    if (sharded_) {
      bucket.owned_gradient = at::zeros({owned}, device);
    } else {
      bucket.gradient = at::zeros({padded}, device);
      bucket.owned_gradient = bucket.gradient.narrow(0, bucket.owned_begin, owned);
    }
  };
  for (auto item = items.rbegin(); item != items.rend(); ++item) {
    const int64_t numel = item->parameter->value.numel();
    if (buckets_.empty() || (size > 0 && (size + numel) * 4 > options_.bucket_bytes)) {
      close();
      buckets_.emplace_back();
      size = 0;
    }
    buckets_.back().placements.push_back({item->parameter.get(), size, numel, item->uses});
    size = round_up(size + numel, kAlignment);
  }
  close();
  for (size_t b = 0; b < buckets_.size(); ++b) {
    for (const Placement& p : buckets_[b].placements) {
      kernels::Parameter& parameter = *p.parameter;
      const auto shape = parameter.value.sizes().vec();
      at::Tensor view = buckets_[b].value.narrow(0, p.offset, p.numel).view(shape);
      view.copy_(parameter.value);
      parameter.value = view;
      parameter.value.requires_grad_(true);  // tells autograd to record the layers that own it
      if (!sharded_) parameter.gradient = buckets_[b].gradient.narrow(0, p.offset, p.numel).view(shape);
      if (sharded_) parameter.on_open = [this, b] { open(buckets_[b]); };
      parameter.on_gradient = [this, b] { on_gradient(b); };
      parameter.on_use = [this, b] { finish_gather(buckets_[b]); };
    }
  }
  adopt_values();
}

void FlatBuckets::adopt_values() {
  const at::NoGradGuard no_grad;
  for (Bucket& bucket : buckets_) {
    for (const Placement& p : bucket.placements) ++p.parameter->version;
    if (!narrow_values() || bucket.value.is_meta()) continue;
    bucket.master.copy_(bucket.value.narrow(0, bucket.owned_begin, bucket.master.numel()));
    bucket.value.copy_(bucket.value.to(options_.values));
  }
}

FlatBuckets::~FlatBuckets() {
  const auto wait_for = [](const WorkPtr& work) {
    if (!work) return;
    try {
      work->wait();
    } catch (...) {  // the job is ending because of this very error
    }
  };
  for (const auto& travelling : travelling_) wait_for(travelling.work);
  for (auto& bucket : buckets_) {
    wait_for(bucket.reduction);
    wait_for(bucket.gathering);
    for (auto& p : bucket.placements) p.parameter->on_gradient = p.parameter->on_open = p.parameter->on_use = nullptr;
  }
}

int64_t FlatBuckets::num_owned() const {
  int64_t count = 0;
  for (const auto& bucket : buckets_)
    for (const auto& p : bucket.placements)
      count += std::max<int64_t>(0, std::min(bucket.owned_end, p.offset + p.numel) - std::max(bucket.owned_begin, p.offset));
  return count;
}

void FlatBuckets::zero_gradients() {
  for (auto& bucket : buckets_) (sharded_ ? bucket.owned_gradient : bucket.gradient).zero_();
  overlapping_ = false;
}

void FlatBuckets::open(Bucket& bucket) {
  if (bucket.gradient.defined()) return;
  bucket.gradient = at::zeros_like(bucket.value);
  for (const Placement& p : bucket.placements)
    p.parameter->gradient = bucket.gradient.narrow(0, p.offset, p.numel).view(p.parameter->value.sizes());
}

void FlatBuckets::start_overlap() {
  for (auto& bucket : buckets_) {
    bucket.missing_additions = 0;
    for (const auto& p : bucket.placements) bucket.missing_additions += p.uses;
  }
  next_launch_ = 0;
  overlapping_ = dp_.size() > 1;
}

void FlatBuckets::on_gradient(size_t bucket) {
  if (!overlapping_) return;
  --buckets_[bucket].missing_additions;
  launch_complete();
}

// Strictly in bucket order: every rank must issue the same sequence of collectives, also one whose last micro-batch is
// empty and which launches everything at the end.
void FlatBuckets::launch_complete() {
  while (next_launch_ < buckets_.size() && buckets_[next_launch_].missing_additions <= 0) launch(next_launch_++);
}

void FlatBuckets::launch(size_t index) {
  Bucket& bucket = buckets_[index];
  if (sharded_) open(bucket);  // a rank without gradients sends zeros
  const int64_t owned = bucket.owned_end - bucket.owned_begin;
  auto work = dp_.reduce_scatter(bucket.gradient.narrow(0, bucket.owned_begin, owned), bucket.gradient, ReduceOp::kSum,
                                 detail::concat("gradients ", index, " of ", options_.name));
  if (!sharded_) {
    bucket.reduction = std::move(work);
    return;
  }
  for (const Placement& p : bucket.placements) p.parameter->gradient = at::Tensor();
  travelling_.push_back({index, std::exchange(bucket.gradient, at::Tensor()), std::move(work)});
  while (travelling_.size() > kTravelling) take_in_oldest();
}

void FlatBuckets::take_in_oldest() {
  const at::NoGradGuard no_grad;
  const Travelling oldest = std::move(travelling_.front());
  travelling_.pop_front();
  oldest.work->wait();
  Bucket& bucket = buckets_[oldest.bucket];
  bucket.owned_gradient.add_(oldest.gradient.narrow(0, bucket.owned_begin, bucket.owned_gradient.numel()));
}

void FlatBuckets::start_reduction() {
  if (dp_.size() == 1) return;
  if (!overlapping_) start_overlap();
  for (auto& bucket : buckets_) bucket.missing_additions = 0;
  launch_complete();
  if (sharded_) overlapping_ = false;  // the next micro-batch adds anew
}

void FlatBuckets::finish_reduction() {
  if (dp_.size() == 1) return;
  if (sharded_) {
    while (!travelling_.empty()) take_in_oldest();
    return;
  }
  start_reduction();
  for (auto& bucket : buckets_) std::exchange(bucket.reduction, nullptr)->wait();
  overlapping_ = false;
}

void FlatBuckets::start_gather(size_t index) {
  Bucket& bucket = buckets_[index];
  for (const Placement& p : bucket.placements) ++p.parameter->version;
  const at::NoGradGuard no_grad;
  const bool alone = dp_.size() == 1;
  const std::string site = alone ? "" : detail::concat("parameters ", index, " of ", options_.name);
  if (!narrow_values()) {
    if (!alone) bucket.gathering = dp_.all_gather(bucket.value, bucket.master, site);
  } else if (alone) {
    bucket.value.copy_(bucket.master.to(options_.values));
  } else {
    bucket.arriving = at::empty(bucket.value.sizes(), bucket.value.options().dtype(options_.values).requires_grad(false));
    const at::Tensor own = bucket.arriving.narrow(0, bucket.owned_begin, bucket.master.numel());
    own.copy_(bucket.master);
    bucket.gathering = dp_.all_gather(bucket.arriving, own, site);
  }
}

void FlatBuckets::finish_gather(Bucket& bucket) {
  if (!bucket.gathering) return;
  std::exchange(bucket.gathering, nullptr)->wait();
  const at::NoGradGuard no_grad;
  if (bucket.arriving.defined()) bucket.value.copy_(std::exchange(bucket.arriving, at::Tensor()));
}

void FlatBuckets::finish_gather() {
  for (auto& bucket : buckets_) finish_gather(bucket);
}

}  // namespace tessera::parallel
