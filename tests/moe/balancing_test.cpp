#include "moe/load_balancer.h"

#include "parallel/communicator.h"
#include "tests/kernels/test_tensors.h"

namespace tessera::moe {
namespace {

const MoeConfig kConfig{.num_experts = 8, .experts_per_token = 2, .scoring = Scoring::kSigmoid, .correction_bias = true};

TEST(LayerLoad, Metrics) {
  EXPECT_DOUBLE_EQ((LayerLoad{{5, 5, 5, 5}}.max_violation()), 0.0);
  EXPECT_DOUBLE_EQ((LayerLoad{{5, 5, 5, 5}}.entropy()), 1.0);
  EXPECT_DOUBLE_EQ((LayerLoad{{20, 0, 0, 0}}.max_violation()), 3.0);
  EXPECT_DOUBLE_EQ((LayerLoad{{20, 0, 0, 0}}.entropy()), 0.0);
  EXPECT_DOUBLE_EQ((LayerLoad{{0, 0}}.max_violation()), 0.0);
}

TEST(LoadBalancer, MovesTheBiasByTheSignOfTheViolation) {
  Router router({.num_experts = 4, .experts_per_token = 1, .scoring = Scoring::kSigmoid, .correction_bias = true}, 3);
  router.bias()->value.zero_();
  LoadBalancer balancer({{5, &router}}, {5}, 4, 0.25);
  balancer.update({LayerLoad{{7, 5, 3, 5}}});
  EXPECT_TRUE(router.bias()->value.equal(torch::tensor({-0.25f, 0.0f, 0.25f, 0.0f})));
  LoadBalancer off({{5, &router}}, {5}, 4, 0.0);
  off.update({LayerLoad{{20, 0, 0, 0}}});
  EXPECT_TRUE(router.bias()->value.equal(torch::tensor({-0.25f, 0.0f, 0.25f, 0.0f})));
}

// A router that likes three experts of eight: after some steps all have about the same load.
TEST(LoadBalancer, EvensOutALoadThatLeans) {
  at::NoGradGuard no_grad;
  const auto self = parallel::make_self_communicator();
  Router router(kConfig, 16);
  router.weight()->value.copy_(kernels::random_tensor({8, 16}, 1).mul_(0.2));
  router.bias()->value.copy_(torch::tensor({0.5f, 0.4f, 0.3f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}));
  LoadBalancer balancer({{2, &router}}, {2}, 8, 0.01);
  double first = 0, last = 0;
  for (int step = 0; step < 120; ++step) {
    balancer.begin_step();
    (void)router.route(kernels::random_tensor({512, 16}, step), {}, {.statistics = true});
    const auto loads = balancer.collect(*self);
    (step == 0 ? first : last) = loads[0].max_violation();
    balancer.update(loads);
  }
  EXPECT_GT(first, 2.0);
  EXPECT_LT(last, 0.3);
}

}  // namespace
}  // namespace tessera::moe
