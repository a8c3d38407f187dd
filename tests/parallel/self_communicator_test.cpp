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

}  // namespace
}  // namespace tessera::parallel
