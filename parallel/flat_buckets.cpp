#include "parallel/flat_buckets.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <chrono>

#include "core/error.h"

namespace tessera::parallel {

namespace {
constexpr int64_t kAlignment = 16;  // floats: 64 bytes, so that a GEMM sees the same alignment in every layout
int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
}  // namespace

FlatBuckets::FlatBuckets(const std::vector<Item>& items, Communicator& dp, int64_t bucket_bytes) : dp_(dp) {
  int64_t size = 0;
  const auto close = [&] {
    if (buckets_.empty() || buckets_.back().placements.empty()) return;
    Bucket& bucket = buckets_.back();
    const int64_t padded = round_up(size, kAlignment * dp_.size());
    bucket.value = at::zeros({padded}, at::kFloat);
    bucket.gradient = at::zeros({padded}, at::kFloat);
    bucket.owned_begin = padded / dp_.size() * dp_.rank();
    bucket.owned_end = padded / dp_.size() * (dp_.rank() + 1);
  };
  for (auto item = items.rbegin(); item != items.rend(); ++item) {
    const int64_t numel = item->parameter->value.numel();
    if (buckets_.empty() || (size > 0 && (size + numel) * 4 > bucket_bytes)) {
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
      parameter.gradient = buckets_[b].gradient.narrow(0, p.offset, p.numel).view(shape);
      parameter.on_gradient = [this, b] { on_gradient(b); };
    }
  }
}

FlatBuckets::~FlatBuckets() {
  for (auto& bucket : buckets_) {
    if (bucket.work) {
      try {
        bucket.work->wait();
      } catch (...) {  // the job is ending because of this very error
      }
    }
    for (auto& p : bucket.placements) p.parameter->on_gradient = nullptr;
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
  for (auto& bucket : buckets_) bucket.gradient.zero_();
  overlapping_ = false;
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
  while (next_launch_ < buckets_.size() && buckets_[next_launch_].missing_additions <= 0) {
    Bucket& bucket = buckets_[next_launch_++];
    at::Tensor owned = bucket.gradient.narrow(0, bucket.owned_begin, bucket.owned_end - bucket.owned_begin);
    bucket.work = dp_.reduce_scatter(owned, bucket.gradient);
  }
}

void FlatBuckets::start_reduction() {
  if (dp_.size() == 1) return;
  if (!overlapping_) start_overlap();
  for (auto& bucket : buckets_) bucket.missing_additions = 0;
  launch_complete();
}

void FlatBuckets::finish_reduction() {
  if (dp_.size() == 1) return;
  start_reduction();
  const auto start = std::chrono::steady_clock::now();
  for (auto& bucket : buckets_) {
    bucket.work->wait();
    bucket.work.reset();
  }
  exposed_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  overlapping_ = false;
}

void FlatBuckets::gather_values() {
  if (dp_.size() == 1) return;
  const auto start = std::chrono::steady_clock::now();
  at::NoGradGuard no_grad;
  std::vector<WorkPtr> works;
  for (auto& bucket : buckets_)
    works.push_back(dp_.all_gather(
        bucket.value, bucket.value.narrow(0, bucket.owned_begin, bucket.owned_end - bucket.owned_begin)));
  for (auto& work : works) work->wait();
  exposed_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace tessera::parallel
