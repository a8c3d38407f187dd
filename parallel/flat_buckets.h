// Flat buckets for data parallelism with sharded optimizer state (ZeRO, arXiv 1910.02054): the trainable parameters lie in a
// few flat float32 buffers, their gradients in buffers of the same layout. A bucket's gradients are reduce-scattered while the
// backward pass goes on; each rank updates its slice, and the slices are gathered while the next forward pass begins: a
// layer waits for its own values only.
//
// Values in bfloat16 are a rounded copy of master weights in float32, of which each rank has its slice; they travel in bfloat16. On a
// CPU they lie in float32, which its kernels read.
//
// Stage 1 keeps whole gradients and reduces them once a step. Stage 2 keeps the owned slices of the sums: a bucket's gradients
// have memory from the first addition of a micro-batch to the end of its reduction, which every micro-batch makes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "kernels/parameter.h"
#include "parallel/communicator.h"

namespace tessera::parallel {

struct BucketOptions {
  int64_t bucket_bytes = int64_t{32} << 20;
  int zero_stage = 1;
  at::ScalarType values = at::kFloat;  // or kBFloat16
  std::string name;  // of the parameters, for messages: "stage 3"
};

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
    at::Tensor value;     // [padded size]
    at::Tensor gradient;  // [padded size]; in stage 2 undefined between micro-batches
    at::Tensor master;    // [owned_end - owned_begin]: what the optimizer updates; with float32 values a view of them
    at::Tensor arriving;  // [padded size]: values on their way in bfloat16
    std::vector<Placement> placements;
    int64_t owned_begin = 0, owned_end = 0;  // this rank's slice
    at::Tensor owned_gradient;               // [owned_end - owned_begin]: after finish_reduction the sum over all ranks
    int64_t missing_additions = 0;
    WorkPtr reduction, gathering;
  };

  /// Moves the items' values into buckets of about `bucket_bytes` and makes them trainable. Items come in the order of the
  /// forward pass; buckets fill from the last, in the order of the backward pass.
  FlatBuckets(const std::vector<Item>& items, Communicator& dp, BucketOptions options = {});
  ~FlatBuckets();
  FlatBuckets(const FlatBuckets&) = delete;
  FlatBuckets& operator=(const FlatBuckets&) = delete;

  /// The values have been written from outside: the masters take them, then they are rounded.
  void adopt_values();
  void zero_gradients();
  /// Before the backward pass of a micro-batch after which gradients are to be reduced: from then on a complete bucket starts
  /// its reduction by itself.
  void start_overlap();
  /// Starts every reduction that has not started, in the same order on every rank: no gradient is added any more, in stage 2
  /// by this micro-batch.
  void start_reduction();
  /// Waits for all reductions, which stage 1 starts if need be. Gradients are then summed over dp, in the owned slices.
  void finish_reduction();
  /// The master slice of a bucket has been updated: it goes to all ranks. In the same order on every rank.
  void start_gather(size_t bucket);
  /// Waits for the values that are still on their way.
  void finish_gather();

  [[nodiscard]] std::vector<Bucket>& buckets() { return buckets_; }
  [[nodiscard]] const std::vector<Bucket>& buckets() const { return buckets_; }
  [[nodiscard]] Communicator& communicator() const { return dp_; }
  /// Whether every micro-batch ends in a reduction.
  [[nodiscard]] bool reduces_each_microbatch() const { return sharded_; }
  /// Elements of parameters that this rank owns.
  [[nodiscard]] int64_t num_owned() const;

 private:
  [[nodiscard]] bool narrow_values() const { return options_.values != at::kFloat; }

  struct Travelling {  // stage 2: a micro-batch's gradients of a bucket on their way
    size_t bucket = 0;
    at::Tensor gradient;
    WorkPtr work;
  };

  void finish_gather(Bucket& bucket);
  void open(Bucket& bucket);
  void on_gradient(size_t bucket);
  void launch_complete();
  void launch(size_t bucket);
  void take_in_oldest();

  Communicator& dp_;
  BucketOptions options_;
  bool sharded_;
  std::vector<Bucket> buckets_;
  std::deque<Travelling> travelling_;
  size_t next_launch_ = 0;
  bool overlapping_ = false;
};

}  // namespace tessera::parallel
