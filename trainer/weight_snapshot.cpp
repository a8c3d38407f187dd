#include "trainer/weight_snapshot.h"

#include <ATen/core/grad_mode.h>

namespace tessera::trainer {

WeightSnapshot::WeightSnapshot(Stages& stages) : stages_(stages), owned_(stages.buckets()), slices_(owned_.zeros()) { refresh(); }

void WeightSnapshot::refresh() {
  at::NoGradGuard no_grad;
  const auto live = owned_.weights();
  for (size_t b = 0; b < slices_.size(); ++b) slices_[b].copy_(live[b]);
}

void WeightSnapshot::swap() {
  at::NoGradGuard no_grad;
  for (auto* flat : stages_.buckets()) flat->finish_gather();
  const auto live = owned_.weights();
  for (size_t b = 0; b < slices_.size(); ++b) {
    const at::Tensor kept = live[b].clone();
    live[b].copy_(slices_[b]);
    slices_[b].copy_(kept);
  }
  for (auto* flat : stages_.buckets()) {
    for (size_t b = flat->buckets().size(); b-- > 0;) flat->start_gather(b);
    flat->finish_gather();
  }
}

}  // namespace tessera::trainer
