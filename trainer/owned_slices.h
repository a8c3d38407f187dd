// What this rank owns of flat buckets, by Hugging Face name: for checkpoints of weights, moments and snapshots.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/reader.h"
#include "checkpoint/writer.h"
#include "model/layers.h"
#include "parallel/flat_buckets.h"

namespace tessera::trainer {

class OwnedSlices final {
 public:
  /// One tensor a bucket: its owned slice.
  using Slices = std::vector<at::Tensor>;

  /// `buckets` must outlive it.
  explicit OwnedSlices(const std::vector<parallel::FlatBuckets*>& buckets);

  [[nodiscard]] Slices zeros(at::ScalarType dtype = at::kFloat) const;
  /// The master weights themselves.
  [[nodiscard]] Slices weights() const;
  [[nodiscard]] const std::vector<parallel::FlatBuckets::Bucket*>& buckets() const { return buckets_; }

  void list(const std::string& kind, const Slices& slices, const std::vector<model::NamedWeight>& weights,
            std::vector<checkpoint::OwnedRange>& ranges) const;
  void read(const std::string& kind, const Slices& slices, const std::vector<model::NamedWeight>& weights, checkpoint::CheckpointReader& reader) const;

  struct Overlap {  // a part of a named weight that this rank owns
    size_t bucket = 0;
    int64_t slice_begin = 0, weight_begin = 0, count = 0;
  };
  [[nodiscard]] std::vector<Overlap> overlaps(const model::NamedWeight& weight) const;

 private:
  std::vector<parallel::FlatBuckets::Bucket*> buckets_;  // of all of them, one after the other
};

}  // namespace tessera::trainer
