#include "moe/router.h"

#include <memory>

#include "core/error.h"
#include "moe/selection.h"
#include "tests/kernels/test_tensors.h"
#include "tests/support/accelerators.h"

namespace tessera::moe {
namespace {

using kernels::expect_close;
using kernels::random_tensor;
using kernels::reference_copy;

std::vector<int32_t> chosen(const MoeConfig& config, std::vector<float> scores, std::vector<float> bias = {}) {
  std::vector<int32_t> result(static_cast<size_t>(config.experts_per_token));
  Selector(config).choose(scores.data(), bias.empty() ? nullptr : bias.data(), result.data());
  return result;
}

TEST(Selector, TakesTheBestAndAmongEqualsTheFirst) {
  const MoeConfig config{.num_experts = 4, .experts_per_token = 2};
  EXPECT_EQ(chosen(config, {0.1f, 0.4f, 0.2f, 0.3f}), (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(chosen(config, {0.2f, 0.2f, 0.2f, 0.2f}), (std::vector<int32_t>{0, 1}));
  const MoeConfig all{.num_experts = 3, .experts_per_token = 3};
  EXPECT_EQ(chosen(all, {0.1f, 0.4f, 0.2f}), (std::vector<int32_t>{1, 2, 0}));
}

TEST(Selector, GroupsAreJudgedByTheirTwoBestOrTheirBest) {
  MoeConfig config{.num_experts = 6, .experts_per_token = 2, .num_groups = 3, .topk_groups = 1};
  const std::vector<float> scores = {0.9f, 0.0f, 0.5f, 0.5f, 0.1f, 0.2f};
  EXPECT_EQ(chosen(config, scores), (std::vector<int32_t>{2, 3}));
  config.group_score = GroupScore::kMax;
  EXPECT_EQ(chosen(config, scores), (std::vector<int32_t>{0, 1}));
}

MoeConfig sigmoid_config(bool norm) {
  return {.num_experts = 8, .experts_per_token = 3, .scoring = Scoring::kSigmoid, .correction_bias = true, .num_groups = 4, .topk_groups = 2,
          .norm_topk_prob = norm, .routed_scaling_factor = 2.5};
}
MoeConfig softmax_config(bool norm) {
  return {.num_experts = 8, .experts_per_token = 3, .scoring = Scoring::kSoftmax, .norm_topk_prob = norm, .routed_scaling_factor = 1.5};
}

Router make_router(const MoeConfig& config, int64_t dim) {
  Router router(config, dim);
  router.weight()->value = random_tensor({config.num_experts, dim}, 1).mul_(0.5).requires_grad_(true);
  router.weight()->gradient = at::zeros({config.num_experts, dim});
  if (router.bias()) router.bias()->value.copy_(random_tensor({config.num_experts}, 2).mul_(0.1));
  return router;
}

TEST(Router, BiasMovesSelectionButNotWeights) {
  MoeConfig config{.num_experts = 4, .experts_per_token = 1, .scoring = Scoring::kSigmoid, .correction_bias = true};
  Router router(config, 1);
  router.weight()->value.copy_(torch::tensor({0.5f, 1.0f, -1.0f, 0.0f}).view({4, 1}));
  router.bias()->value.copy_(torch::tensor({0.0f, 0.0f, 1.0f, 0.0f}));
  at::NoGradGuard no_grad;
  const Routing routing = router.route(at::ones({1, 1}), {}, {});
  EXPECT_EQ(routing.experts.item<int32_t>(), 2);
  EXPECT_NEAR(routing.weights.item<float>(), 1.0f / (1.0f + std::exp(1.0f)), 1e-6);
}

/// [T, K] experts that no router would choose all of: others for each token.
at::Tensor bad_choices(const MoeConfig& config, int64_t tokens) {
  const at::Tensor first = at::arange(tokens, at::kInt).view({-1, 1}), more = at::arange(config.experts_per_token, at::kInt).view({1, -1});
  return at::remainder(first * 5 + more * 3, config.num_experts).contiguous();
}

/// As on the host, or as on a device.
std::unique_ptr<test::InPlaceOfTheCpu> device_if(bool wanted) { return wanted ? std::make_unique<test::InPlaceOfTheCpu>("operations") : nullptr; }

class RouterGradients : public testing::TestWithParam<std::tuple<MoeConfig, bool, bool>> {
 protected:
  [[nodiscard]] static const MoeConfig& config_of_case() { return std::get<0>(GetParam()); }
  [[nodiscard]] static bool imposed() { return std::get<1>(GetParam()); }
  std::unique_ptr<test::InPlaceOfTheCpu> device_ = device_if(std::get<2>(GetParam()));
};

// Weights, both losses and all gradients against the formulas in double, the choice held: the router's own or an imposed one.
TEST_P(RouterGradients, EqualTheFormulasInDouble) {
  const MoeConfig& config = config_of_case();
  const int64_t tokens = 21, dim = 10, choices = config.experts_per_token;
  Router router = make_router(config, dim);
  const std::vector<Segment> segments = {{0, 9, 0, -1}, {9, 12, 0, -1}};
  RoutingTerms terms{.statistics = true, .balance_weight = 0.7, .z_weight = 0.05};
  const LayerChoices given = {{0, bad_choices(config, tokens)}};
  if (imposed()) terms.imposed = &given;
  at::Tensor x = random_tensor({tokens, dim}, 3).requires_grad_(true);
  const at::Tensor direction = random_tensor({tokens, choices}, 4);
  const Routing routing = router.route(x, segments, terms);
  (routing.weights * direction).sum().backward();

  at::Tensor rx = reference_copy(x), rw = reference_copy(router.weight()->value);
  const at::Tensor logits = rx.mm(rw.t());
  const at::Tensor scores = config.scoring == Scoring::kSigmoid ? logits.sigmoid() : logits.softmax(1);
  EXPECT_EQ(routing.experts.equal(given.at(0)), imposed());
  const at::Tensor index = routing.experts.to(at::kLong);
  at::Tensor weights = scores.gather(1, index);
  if (config.norm_topk_prob) weights = weights / weights.sum(1, true);
  weights = weights * config.routed_scaling_factor;
  const at::Tensor normalized = scores / scores.sum(1, true);
  at::Tensor balance = at::zeros({}, at::kDouble);
  for (const Segment& s : segments) {
    const at::Tensor counts = at::one_hot(index.narrow(0, s.start, s.length), config.num_experts).sum(at::IntArrayRef({0, 1})).to(at::kDouble);
    const at::Tensor f = counts * static_cast<double>(config.num_experts) / static_cast<double>(choices * s.length);
    balance = balance + terms.balance_weight * (f * normalized.narrow(0, s.start, s.length).mean(0)).sum();
  }
  const at::Tensor z = terms.z_weight * logits.logsumexp(1).square().sum();
  ((weights * direction.to(at::kDouble)).sum() + balance + z).backward();

  expect_close(routing.weights.detach(), weights.detach(), 1e-6, "weights");
  expect_close(x.grad(), rx.grad(), 1e-5, "input gradient");
  expect_close(router.weight()->gradient, rw.grad(), 1e-5, "weight gradient");
  EXPECT_NEAR(router.sums().balance_loss.item<double>(), balance.item<double>(), 1e-6);
  EXPECT_NEAR(router.sums().z_loss.item<double>(), z.item<double>(), 1e-5);
  EXPECT_EQ(router.sums().counts.sum().item<int64_t>(), tokens * choices);
}

INSTANTIATE_TEST_SUITE_P(Kinds, RouterGradients,
                         testing::Combine(testing::Values(sigmoid_config(true), sigmoid_config(false), softmax_config(true), softmax_config(false)),
                                          testing::Bool(), testing::Bool()));

class ImposedChoices : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(HostAndDevice, ImposedChoices, testing::Bool());

TEST_P(ImposedChoices, AreTakenWhereThereAreAny) {
  const auto device = device_if(GetParam());
  const MoeConfig config = sigmoid_config(true);
  Router router = make_router(config, 6);
  at::NoGradGuard no_grad;
  const at::Tensor x = random_tensor({9, 6}, 3);
  LayerChoices recorded;
  const at::Tensor own = router.route(x, {}, {.record = &recorded}).experts;
  EXPECT_TRUE(recorded.at(0).equal(own));
  LayerChoices given = {{0, bad_choices(config, 9)}};
  given.at(0).narrow(0, 4, 3).fill_(-1);
  at::Tensor expected = given.at(0).clone();
  expected.narrow(0, 4, 3).copy_(own.narrow(0, 4, 3));
  EXPECT_FALSE(expected.equal(own));
  const Routing routing = router.route(x, {}, {.statistics = true, .imposed = &given, .record = &recorded});
  EXPECT_TRUE(routing.experts.equal(expected));
  EXPECT_TRUE(recorded.at(0).equal(expected));
  EXPECT_TRUE(router.sums().counts.equal(at::bincount(expected.view({-1}), {}, 8))) << "counted is what was used";
  // Another layer's are not this one's; those for other rows are a mistake of ours.
  const LayerChoices elsewhere = {{1, given.at(0)}};
  EXPECT_TRUE(router.route(x, {}, {.imposed = &elsewhere}).experts.equal(own));
  EXPECT_THROW((void)router.route(x.narrow(0, 0, 4), {}, {.imposed = &given}), InternalError);
}

TEST(Router, WithoutStatisticsNothingIsCounted) {
  Router router = make_router(softmax_config(true), 5);
  at::NoGradGuard no_grad;
  (void)router.route(random_tensor({4, 5}, 1), {}, {.statistics = false, .balance_weight = 1, .z_weight = 1});
  EXPECT_FALSE(router.sums().counts.defined());
  EXPECT_FALSE(router.sums().balance_loss.defined());
  EXPECT_FALSE(router.sums().z_loss.defined());
}

}  // namespace
}  // namespace tessera::moe
