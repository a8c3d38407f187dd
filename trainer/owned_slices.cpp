#include "trainer/owned_slices.h"

#include <ATen/ops/zeros.h>

#include <algorithm>

namespace tessera::trainer {

OwnedSlices::OwnedSlices(const std::vector<parallel::FlatBuckets*>& buckets) {
  for (auto* flat : buckets)
    for (auto& bucket : flat->buckets()) buckets_.push_back(&bucket);
}

OwnedSlices::Slices OwnedSlices::zeros(at::ScalarType dtype) const {
  Slices slices;
  for (const auto* bucket : buckets_) slices.push_back(at::zeros(bucket->master.sizes(), bucket->master.options().dtype(dtype).requires_grad(false)));
  return slices;
}

OwnedSlices::Slices OwnedSlices::weights() const {
  Slices slices;
  for (const auto* bucket : buckets_) slices.push_back(bucket->master.detach());
  return slices;
}

std::vector<OwnedSlices::Overlap> OwnedSlices::overlaps(const model::NamedWeight& weight) const {
  std::vector<Overlap> found;
  for (size_t b = 0; b < buckets_.size(); ++b) {
    const auto& bucket = *buckets_[b];
    for (const auto& placement : bucket.placements) {
      if (placement.parameter != weight.parameter.get()) continue;
      const int64_t first = placement.offset + weight.offset();
      const int64_t begin = std::max(bucket.owned_begin, first), end = std::min(bucket.owned_end, first + weight.numel());
      if (begin < end) found.push_back({b, begin - bucket.owned_begin, begin - first, end - begin});
    }
  }
  return found;
}

void OwnedSlices::list(const std::string& kind, const Slices& slices, const std::vector<model::NamedWeight>& weights,
                       std::vector<checkpoint::OwnedRange>& ranges) const {
  for (const auto& weight : weights)
    for (const Overlap& o : overlaps(weight)) ranges.push_back({kind, weight.name, o.weight_begin, slices[o.bucket].narrow(0, o.slice_begin, o.count)});
}

void OwnedSlices::read(const std::string& kind, const Slices& slices, const std::vector<model::NamedWeight>& weights,
                       checkpoint::CheckpointReader& reader) const {
  for (const auto& weight : weights)
    for (const Overlap& o : overlaps(weight)) reader.read(kind, weight.name, o.weight_begin, slices[o.bucket].narrow(0, o.slice_begin, o.count));
}

}  // namespace tessera::trainer
