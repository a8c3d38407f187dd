// N ranks with flat buckets give what one rank gives. All numbers are small integers, so that sums are exact.
#include "parallel/flat_buckets.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "core/error.h"
#include "mpi_main.h"

namespace tessera::parallel {
namespace {

const std::vector<std::vector<int64_t>> kShapes = {{5, 7}, {11}, {40, 3}, {1}, {8, 8}, {3}};
constexpr size_t kShared = 1;  // this one gets two additions a pass, like a tied embedding
constexpr int kMicroBatches = 3;

at::Tensor numbers(const std::vector<int64_t>& shape, int64_t seed) {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  return ((torch::arange(count, torch::kLong) * 7 + seed * 13) % 31 - 15).to(torch::kFloat).reshape(shape);
}

struct Replica {
  std::vector<kernels::ParameterPtr> parameters;
  std::unique_ptr<FlatBuckets> buckets;

  Replica(Communicator& dp, int64_t bucket_bytes, int zero_stage = 1, at::ScalarType values = at::kFloat) {
    std::vector<FlatBuckets::Item> items;
    for (size_t i = 0; i < kShapes.size(); ++i) {
      parameters.push_back(std::make_shared<kernels::Parameter>());
      parameters.back()->value = numbers(kShapes[i], static_cast<int64_t>(i) + 100);
      items.push_back({parameters.back(), i == kShared ? 2 : 1});
    }
    buckets = std::make_unique<FlatBuckets>(items, dp, BucketOptions{.bucket_bytes = bucket_bytes, .zero_stage = zero_stage, .values = values, .name = "test"});
  }

  /// What the layers do in the backward pass of one micro-batch of rank `rank`.
  void backward(int rank, int micro) {
    at::NoGradGuard no_grad;
    for (size_t i = kShapes.size(); i-- > 0;) {
      for (int use = 0; use < (i == kShared ? 2 : 1); ++use) {
        parameters[i]->open_gradient().add_(numbers(kShapes[i], static_cast<int64_t>(i) + 10 * rank + 3 * micro + use));
        parameters[i]->gradient_added();
      }
    }
  }

  /// One step of plain descent on the owned slices.
  void update() {
    at::NoGradGuard no_grad;
    for (auto& bucket : buckets->buckets()) {
      bucket.master.sub_(bucket.owned_gradient);
    }
    for (size_t b = buckets->buckets().size(); b-- > 0;) buckets->start_gather(b);
    for (const auto& parameter : parameters) parameter->await();
  }
};

class Buckets : public testing::TestWithParam<std::tuple<int64_t, int>> {
 protected:
  int64_t bytes() const { return std::get<0>(GetParam()); }
  int zero_stage() const { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(BytesAndStage, Buckets, testing::Combine(testing::Values(16, 400, 1 << 20), testing::Values(1, 2)));

TEST_P(Buckets, SeveralRanksGiveTheWeightsOfOne) {
  const int rank = test_world().rank(), ranks = test_world().size();
  const auto self = make_self_communicator("dp");
  Replica many(test_world(), bytes(), zero_stage()), one(*self, bytes());
  for (int step = 0; step < 3; ++step) {
    many.buckets->zero_gradients();
    one.buckets->zero_gradients();
    for (int micro = 0; micro < kMicroBatches; ++micro) {
      const bool last = micro + 1 == kMicroBatches;
      if (last || many.buckets->reduces_each_microbatch()) many.buckets->start_overlap();
      // In the second step the last micro-batch of rank 0 is empty: it launches everything at the end.
      if (!(step == 1 && last && rank == 0)) many.backward(rank, micro + step);
      if (many.buckets->reduces_each_microbatch()) many.buckets->start_reduction();
    }
    many.buckets->finish_reduction();
    for (const auto& bucket : many.buckets->buckets()) EXPECT_EQ(bucket.gradient.defined(), zero_stage() == 1 || ranks == 1);
    one.buckets->start_overlap();
    for (int r = 0; r < ranks; ++r)
      for (int micro = 0; micro < kMicroBatches; ++micro)
        if (!(step == 1 && micro + 1 == kMicroBatches && r == 0)) one.backward(r, micro + step);
    one.buckets->finish_reduction();
    for (size_t b = 0; b < many.buckets->buckets().size(); ++b) {
      const auto& bucket = many.buckets->buckets()[b];
      const auto& reference = one.buckets->buckets()[b];
      const int64_t end = std::min(bucket.owned_end, reference.gradient.numel()), count = end - bucket.owned_begin;
      if (count <= 0) continue;  // this rank owns padding only
      EXPECT_TRUE(bucket.owned_gradient.narrow(0, 0, count).equal(reference.gradient.narrow(0, bucket.owned_begin, count)))
          << "step " << step << " bucket " << b;
    }
    many.update();
    one.update();
    for (size_t i = 0; i < kShapes.size(); ++i)
      EXPECT_TRUE(many.parameters[i]->value.equal(one.parameters[i]->value)) << "step " << step << " parameter " << i;
  }
}

TEST_P(Buckets, ValuesInBfloat16AreRoundedMasters) {
  Replica replica(test_world(), bytes(), zero_stage(), at::kBFloat16);
  std::vector<at::Tensor> exact;
  {
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < kShapes.size(); ++i) {
      exact.push_back(numbers(kShapes[i], static_cast<int64_t>(i)) + 1e-4f);
      replica.parameters[i]->value.copy_(exact.back());
    }
  }
  replica.buckets->adopt_values();
  const int64_t before = test_world().traffic()[test_world().axis()].bytes;
  for (int step = 0; step < 3; ++step) {
    for (size_t i = 0; i < kShapes.size(); ++i) EXPECT_TRUE(replica.parameters[i]->value.equal(exact[i].to(at::kBFloat16).to(at::kFloat))) << step << " " << i;
    const at::NoGradGuard no_grad;
    for (auto& bucket : replica.buckets->buckets()) bucket.master.add_(1e-3f);  // less than half a bfloat16 of most
    for (auto& tensor : exact) tensor.add_(1e-3f);
    for (size_t b = replica.buckets->buckets().size(); b-- > 0;) replica.buckets->start_gather(b);
    replica.buckets->finish_gather();
  }
  if (test_world().size() == 1) return;
  int64_t elements = 0;
  for (const auto& bucket : replica.buckets->buckets()) elements += bucket.master.numel();
  const int64_t sent = test_world().traffic()[test_world().axis()].bytes - before;
  EXPECT_EQ(sent, 3 * 2 * elements * (test_world().size() - 1)) << "two bytes an element";
}

TEST_P(Buckets, SlicesOfAllRanksCoverEachBucketOnce) {
  const int ranks = test_world().size();
  const Replica replica(test_world(), bytes(), zero_stage());
  for (const auto& bucket : replica.buckets->buckets()) {
    at::Tensor owned = torch::zeros({bucket.value.numel()}, torch::kInt);
    owned.narrow(0, bucket.owned_begin, bucket.owned_end - bucket.owned_begin).fill_(1);
    test_world().all_reduce(owned)->wait();
    EXPECT_TRUE(owned.eq(1).all().item<bool>());
    EXPECT_EQ(bucket.value.numel() % (16 * ranks), 0);
  }
}

TEST(FlatBuckets, LeavesTheParametersFreeWhenItGoes) {
  Replica replica(test_world(), 400);
  EXPECT_TRUE(replica.parameters[0]->trainable());
  EXPECT_TRUE(static_cast<bool>(replica.parameters[0]->on_gradient));
  replica.buckets.reset();
  EXPECT_FALSE(static_cast<bool>(replica.parameters[0]->on_gradient));
}

}  // namespace
}  // namespace tessera::parallel
