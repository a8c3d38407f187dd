// A model whose linears and experts multiply in FP8.
#include "kernels/fp8/recipe.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

namespace tessera::model {
namespace {

const std::vector<int32_t> kTrainedTokens = {10, 11, 12, 13, 14, 20, 30, 31, 32};
const std::vector<Segment> kTrainedSegments = {{0, 5, 0, -1}, {5, 1, 0, -1}, {6, 3, 0, -1}};
const std::vector<int64_t> kRowStarts = {0, 5};
const kernels::Targets kTrainedTargets = {{0, 1, 2, 3, 6, 7}, {11, 12, 13, 14, 31, 32}, {1, 1, 1, 1, 1, 1}};

struct Result {
  double loss = 0;
  std::vector<at::Tensor> gradients;
};

Result backward(const char* fp8, Recompute recompute, bool later) {
  auto model = test::tiny_model(test::tiny_deepseek_config());
  if (fp8 != nullptr) model->use_fp8(*kernels::fp8::find_recipe(fp8));
  model->set_recompute(recompute);
  kernels::GradientQueue queue;
  queue.deferring = later;
  for (const auto& used : model->parameters(true)) {
    used.parameter->value.requires_grad_(true);
    used.parameter->gradient = at::zeros_like(used.parameter->value.detach());
    used.parameter->queue = &queue;
  }
  std::vector<int32_t> positions;
  for (const Segment& s : kTrainedSegments)
    for (int64_t i = 0; i < s.length; ++i) positions.push_back(static_cast<int32_t>(i));
  const at::Tensor tokens = torch::tensor(kTrainedTokens, torch::kInt), place = torch::tensor(positions, torch::kInt);
  auto modules = mtp_rows(kTrainedTokens, kTrainedSegments, kTrainedTargets, {0.3}, kRowStarts);
  const at::Tensor hidden = model->hidden_states(tokens, place, kTrainedSegments, {}, kRowStarts);
  at::Tensor total = model->loss(hidden, kTrainedTargets).loss;
  for (const auto& part : model->mtp_losses(hidden, modules, {})) total = total + part.loss;
  total.backward();
  EXPECT_EQ(queue.waiting.empty(), !later);
  for (const auto& work : queue.waiting) work();
  Result result{total.item<double>(), {}};
  for (const auto& used : model->parameters(true)) result.gradients.push_back(used.parameter->gradient);
  return result;
}

void expect_same_bits(const Result& a, const Result& b) {
  EXPECT_EQ(a.loss, b.loss);
  ASSERT_EQ(a.gradients.size(), b.gradients.size());
  for (size_t i = 0; i < a.gradients.size(); ++i) EXPECT_TRUE(a.gradients[i].equal(b.gradients[i])) << "parameter " << i;
}

TEST(Fp8Training, RecomputationAndLaterWeightGradientsChangeNoBit) {
  for (const char* name : {"blockwise", "tensorwise"}) {
    const Result plain = backward(name, Recompute::kNone, false);
    expect_same_bits(backward(name, Recompute::kSelective, false), plain);
    expect_same_bits(backward(name, Recompute::kFull, false), plain);
    expect_same_bits(backward(name, Recompute::kNone, true), plain);
  }
}

TEST(Fp8Training, GradientsAreNearThoseInFloat32) {
  const Result exact = backward(nullptr, Recompute::kNone, false);
  for (const char* name : {"blockwise", "tensorwise", "blockwise_coarse_gradients"}) {
    const Result fp8 = backward(name, Recompute::kNone, false);
    EXPECT_NE(fp8.loss, exact.loss);
    EXPECT_NEAR(fp8.loss, exact.loss, 0.05 * exact.loss);
    double error = 0, norm = 0;
    for (size_t i = 0; i < exact.gradients.size(); ++i) {
      error += (fp8.gradients[i] - exact.gradients[i]).square().sum().item<double>();
      norm += exact.gradients[i].square().sum().item<double>();
    }
    EXPECT_LT(std::sqrt(error / norm), 0.5) << name;
    RecordProperty(name, std::to_string(std::sqrt(error / norm)));
  }
}

}  // namespace
}  // namespace tessera::model
