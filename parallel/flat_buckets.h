// Flat buckets for data parallelism with ZeRO-1 (arXiv 1910.02054): the trainable parameters lie in a few flat float32
// buffers, their gradients in buffers of the same layout. A bucket's gradients are reduce-scattered as soon as the last
// micro-batch has added to all of them, while the backward pass goes on; each rank updates its slice, and the slices are
// gathered again.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "kernels/parameter.h"
#include "parallel/communicator.h"

namespace tessera::parallel {

class FlatBuckets final {
 public:
  struct Item {
    kernels::ParameterPtr parameter;
    int uses = 1;  // additions to its gradient in one micro-batch
  };
  struct Placement {
    kernels::Parameter* parameter = nullptr;
    int64_t offset = 0;  // in elements, within the bucket
    int64_t numel = 0;
    int uses = 1;
  };
  struct Bucket {
    at::Tensor value, gradient;  // [padded size]
    std::vector<Placement> placements;
    int64_t owned_begin = 0, owned_end = 0;  // this rank's slice
    int64_t missing_additions = 0;
    WorkPtr work;
  };

  /// Moves the items' values into buckets of about `bucket_bytes` and gives them gradients, which makes them trainable.
  /// Items come in the order of the forward pass; buckets fill from the last, in the order of the backward pass.
  FlatBuckets(const std::vector<Item>& items, Communicator& dp, int64_t bucket_bytes = int64_t{32} << 20);
  ~FlatBuckets();
  FlatBuckets(const FlatBuckets&) = delete;
  FlatBuckets& operator=(const FlatBuckets&) = delete;

  void zero_gradients();
  /// May be called before the last micro-batch: from then on a complete bucket starts its reduction by itself.
  void start_overlap();
  /// Starts every reduction that has not started, in the same order on every rank: no gradient is added any more.
  void start_reduction();
  /// start_reduction, and waits for all. Gradients are then summed over dp, on each bucket's owned slice only.
  void finish_reduction();
  /// Gathers the owned slices of the values on all ranks.
  void gather_values();

  [[nodiscard]] std::vector<Bucket>& buckets() { return buckets_; }
  [[nodiscard]] const std::vector<Bucket>& buckets() const { return buckets_; }
  [[nodiscard]] Communicator& communicator() const { return dp_; }
  /// Elements of parameters that this rank owns.
  [[nodiscard]] int64_t num_owned() const;
  /// Seconds that finish_reduction and gather_values have waited: communication that was not hidden.
  [[nodiscard]] double exposed_seconds() const { return exposed_seconds_; }

 private:
  void on_gradient(size_t bucket);
  void launch_complete();

  Communicator& dp_;
  std::vector<Bucket> buckets_;
  size_t next_launch_ = 0;
  bool overlapping_ = false;
  double exposed_seconds_ = 0;
};

}  // namespace tessera::parallel
