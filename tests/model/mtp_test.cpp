#include "model/mtp.h"

#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

namespace tessera::model {
namespace {

using testing::ElementsAre;

// Documents of 5, 1 and 3 tokens, every token but the first of each a target.
const std::vector<int32_t> kTokens = {10, 11, 12, 13, 14, 20, 30, 31, 32};
const std::vector<Segment> kSegments = {{0, 5, 0, -1}, {5, 1, 0, -1}, {6, 3, 0, -1}};
const kernels::Targets kTargets = {{0, 1, 2, 3, 6, 7}, {11, 12, 13, 14, 31, 32}, {1, 1, 1, 1, 1, 1}};

TEST(MtpRows, EachModulePairsAStateWithALaterTokenOfItsDocument) {
  const auto modules = mtp_rows(kTokens, kSegments, kTargets, {0.5, 0.25});
  ASSERT_EQ(modules.size(), 2u);
  EXPECT_THAT(modules[0].sources, ElementsAre(0, 1, 2, 3, 6, 7));
  EXPECT_THAT(modules[0].tokens, ElementsAre(11, 12, 13, 14, 31, 32));
  EXPECT_THAT(modules[0].positions, ElementsAre(0, 1, 2, 3, 0, 1));
  ASSERT_EQ(modules[0].segments.size(), 2u);
  EXPECT_EQ(modules[0].segments[1].start, 4);
  const auto in_rows = mtp_rows(kTokens, kSegments, kTargets, {0.5, 0.25}, {0, 5});
  EXPECT_THAT(in_rows[0].row_starts, ElementsAre(0, 4)) << "the second row's first document has no row";
  EXPECT_THAT(in_rows[1].row_starts, ElementsAre(0, 3));
  EXPECT_EQ(modules[0].segments[1].length, 2);
  EXPECT_THAT(modules[0].targets.sources, ElementsAre(0, 1, 2, 4));
  EXPECT_THAT(modules[0].targets.ids, ElementsAre(12, 13, 14, 32));
  EXPECT_THAT(modules[0].targets.weights, ElementsAre(0.5f, 0.5f, 0.5f, 0.5f));
  EXPECT_THAT(modules[1].sources, ElementsAre(0, 1, 2, 4));  // rows of the first module
  EXPECT_THAT(modules[1].tokens, ElementsAre(12, 13, 14, 32));
  EXPECT_THAT(modules[1].targets.ids, ElementsAre(13, 14));
  EXPECT_THAT(count_mtp_targets(kTargets.sources, kSegments, 3), ElementsAre(4, 2, 1));
}

// The gradient of the modules' loss, in the direction of a change of the weights, against a difference of losses.
TEST(MtpLosses, GradientsAreThoseOfAFiniteDifference) {
  auto config = test::tiny_deepseek_config();
  config["num_nextn_predict_layers"] = 2;
  const auto model = test::tiny_model(config);
  const at::Tensor tokens = torch::tensor(kTokens, torch::kInt), positions = torch::tensor({0, 1, 2, 3, 4, 0, 0, 1, 2}, torch::kInt);
  const auto loss = [&] {
    auto modules = mtp_rows(kTokens, kSegments, kTargets, {0.3, 0.2});
    const at::Tensor hidden = model->hidden_states(tokens, positions, kSegments);
    at::Tensor total = at::zeros({});
    for (const auto& part : model->mtp_losses(hidden, modules, {})) total = total + part.loss;
    if (total.requires_grad()) total.backward();
    return total.item<double>();
  };
  for (const auto& used : model->parameters(true)) {
    used.parameter->value.requires_grad_(true);
    used.parameter->gradient = at::zeros_like(used.parameter->value);
  }
  int uses = 0, expected = 0;
  for (const auto& used : model->parameters(true)) {
    expected += used.uses;
    used.parameter->on_gradient = [&] { ++uses; };
  }
  (void)loss();
  // The main model's own loss would add to embedding, head and norm once more; router, norms and so on are counted once.
  EXPECT_LE(uses, expected);
  EXPECT_GE(uses, expected - 2);
  at::NoGradGuard no_grad;
  double slope = 0;
  std::vector<at::Tensor> directions;
  auto generator = at::detail::createCPUGenerator(3);
  for (const auto& used : model->parameters(true)) {
    directions.push_back(at::randn(used.parameter->value.sizes(), generator, at::kFloat));
    slope += (directions.back() * used.parameter->gradient).sum().item<double>();
  }
  constexpr double kStep = 1e-3;
  const auto move = [&](double by) {
    size_t i = 0;
    for (const auto& used : model->parameters(true)) used.parameter->value.add_(directions[i++], by);
  };
  move(kStep);
  const double after = loss();
  move(-2 * kStep);
  const double before = loss();
  EXPECT_NEAR((after - before) / (2 * kStep), slope, 1e-2 * std::abs(slope) + 1e-3);
}

}  // namespace
}  // namespace tessera::model
