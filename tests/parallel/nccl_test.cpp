// NCCL with one rank on a GPU: every operation of the interface. Labelled gpu; skipped where there is none.
#include "parallel/nccl.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdlib>

#include "parallel/c10d_communicator.h"

namespace tessera::parallel {
namespace {

TEST(Nccl, OneRankDoesEveryOperation) {
  const DeviceKind kind = make_cuda_kind();
  if (kind.count() == 0) GTEST_SKIP() << "no GPU";
  for (const auto& [name, value] : kind.environment) ::setenv(name.c_str(), value.c_str(), 0);
  const auto control = make_self_communicator();
  kind.make_current(device_of(kind, *control).index());
  const auto world = make_c10d_communicator(*control, kind, {.timeout_seconds = 60});
  const auto options = torch::TensorOptions().device(torch::kCUDA).dtype(torch::kFloat);
  at::Tensor x = torch::arange(12, options).view({4, 3}), y = torch::zeros_like(x);
  const at::Tensor before = x.clone();
  world->all_reduce(x)->wait();
  world->all_reduce(x, ReduceOp::kMax)->wait();
  world->broadcast(x, 0)->wait();
  EXPECT_TRUE(x.equal(before));
  world->all_gather(y, x)->wait();
  EXPECT_TRUE(y.equal(before));
  world->reduce_scatter(y.zero_(), x)->wait();
  EXPECT_TRUE(y.equal(before));
  world->all_to_all(y.zero_(), x, {4}, {4})->wait();
  EXPECT_TRUE(y.equal(before));
  world->exchange({{x, 0, 1}}, {{y.zero_(), 0, 1}})->wait();
  EXPECT_TRUE(y.equal(before));
  at::Tensor half = torch::ones({8}, options.dtype(torch::kBFloat16));
  world->all_reduce(half)->wait();
  EXPECT_EQ(half.sum().item<float>(), 8.0f);
  at::Tensor on_the_host = torch::ones({3}, torch::kLong);  // goes over the control communicator
  world->all_reduce(on_the_host)->wait();
  world->barrier();
}

}  // namespace
}  // namespace tessera::parallel
