#include <gtest/gtest.h>
#include <torch/torch.h>

#include "core/error.h"
#include "parallel/communicator.h"

namespace tessera::parallel {
namespace {

TEST(SelfCommunicator, IsTheIdentity) {
  const auto self = make_self_communicator("dp");
  EXPECT_EQ(self->rank(), 0);
  EXPECT_EQ(self->size(), 1);
  EXPECT_EQ(self->axis(), "dp");
  const at::Tensor values = torch::arange(6, torch::kFloat);
  at::Tensor tensor = values.clone();
  self->all_reduce(tensor)->wait();
  self->broadcast(tensor, 0)->wait();
  self->all_reduce(tensor, ReduceOp::kMax)->wait();
  EXPECT_TRUE(tensor.equal(values));
  at::Tensor output = torch::zeros({6});
  self->all_gather(output, values)->wait();
  EXPECT_TRUE(output.equal(values));
  output.zero_();
  self->reduce_scatter(output, values)->wait();
  EXPECT_TRUE(output.equal(values));
  output.zero_();
  self->all_to_all(output.view({3, 2}), values.view({3, 2}), {3}, {3})->wait();
  EXPECT_TRUE(output.equal(values));
  self->all_gather(tensor, tensor)->wait();
  EXPECT_TRUE(tensor.equal(values));
  self->barrier();
  EXPECT_EQ(self->split({3}, "ep")->axis(), "ep");
}

TEST(SelfCommunicator, DeliversMessagesToItselfByTag) {
  const auto self = make_self_communicator();
  at::Tensor a = torch::ones({2}), b = torch::full({3}, 2.0f);
  at::Tensor to_a = torch::zeros({2}), to_b = torch::zeros({3});
  self->exchange({{a, 0, 1}, {b, 0, 2}}, {{to_b, 0, 2}, {to_a, 0, 1}})->wait();
  EXPECT_TRUE(to_a.equal(a));
  EXPECT_TRUE(to_b.equal(b));
  EXPECT_THROW((void)self->exchange({{a, 0, 1}}, {{to_a, 0, 3}}), InternalError);
}

TEST(DryRunCommunicator, CountsWhatLeavesTheRank) {
  const auto world = make_dry_run_communicator(1, 4);
  const auto meta = at::TensorOptions(at::kFloat).device(at::kMeta);
  world->all_reduce(at::empty({8}, meta))->wait();                         // 2 * 32 * 3 / 4
  world->all_gather(at::empty({8}, meta), at::empty({2}, meta))->wait();   // 8 * 3
  world->broadcast(at::empty({4}, meta), 1)->wait();                       // 16: it is the root
  world->broadcast(at::empty({4}, meta), 0)->wait();                       // 0
  EXPECT_EQ(world->traffic()["world"].bytes, 48 + 24 + 16);
  EXPECT_EQ(world->traffic()["world"].operations, 4);
  const auto pair = world->split({0, 1, 0, 1}, "dp");  // ranks 1 and 3
  EXPECT_EQ(pair->rank(), 0);
  EXPECT_EQ(pair->size(), 2);
  pair->all_to_all(at::empty({5, 3}, meta), at::empty({4, 3}, meta), {1, 4}, {1, 3})->wait();  // three rows of 12 bytes go
  pair->exchange({{at::empty({2}, meta), 1, 0}, {at::empty({6}, meta), 0, 0}}, {{at::empty({6}, meta), 0, 0}})->wait();  // 8 go, 24 stay
  pair->reduce_scatter(at::empty({3}, meta), at::empty({6}, meta))->wait();
  EXPECT_EQ(world->traffic()["dp"].bytes, 36 + 8 + 12);
  EXPECT_EQ(pair->traffic()["world"].operations, 4);  // one ledger for the family
}

TEST(Communicator, ChecksItsArguments) {
  const auto world = make_dry_run_communicator(0, 2);
  EXPECT_THROW((void)world->all_reduce(torch::zeros({3, 2}).t()), InternalError);
  EXPECT_THROW((void)world->all_gather(torch::zeros({3}), torch::zeros({2})), InternalError);
  EXPECT_THROW((void)world->all_to_all(torch::zeros({2, 1}), torch::zeros({2, 1}), {1, 1}, {2, 1}), InternalError);
  EXPECT_THROW((void)world->exchange({{torch::zeros({1}), 2, 0}}, {}), InternalError);
  EXPECT_THROW((void)world->split({0}, "dp"), InternalError);
}

}  // namespace
}  // namespace tessera::parallel
