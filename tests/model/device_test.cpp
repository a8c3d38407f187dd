// A model whose passes run on another device's kernels: here tensor operations on the CPU in the place of the CPU's own, and CUDA kernels that a
// CPU runs in a GPU's place.
#include "tests/support/accelerators.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

namespace tessera::model {
namespace {

using test::InPlaceOfTheCpu;
using test::kAccelerators;

const std::vector<int32_t> kDeviceTokens = {10, 11, 12, 13, 14, 20, 30, 31, 32, 5, 6};
// Documents of 5, 1 and 3 tokens; the last two tokens go on behind the first document.
const std::vector<Segment> kDeviceSegments = {{0, 5, 0, -1}, {5, 1, 0, -1}, {6, 3, 0, -1}, {9, 2, 5, 0}};
const kernels::Targets kDeviceTargets = {{0, 1, 2, 3, 6, 7, 9}, {11, 12, 13, 14, 31, 32, 6}, {1, 0.5, 1, 1, -0.25, 1, 1}};

struct Outcome {
  double loss = 0, balance = 0, z = 0;
  std::vector<int64_t> counts;
  std::vector<std::string> names;
  std::vector<at::Tensor> gradients;
};

nlohmann::json family(const std::string& name) {
  if (name == "deepseek_v3") return test::tiny_deepseek_config();
  auto config = test::tiny_config();
  if (name == "qwen3_moe")
    config.update({{"model_type", "qwen3_moe"}, {"num_experts", 8}, {"num_experts_per_tok", 3}, {"moe_intermediate_size", 12}, {"norm_topk_prob", false},
                   {"decoder_sparse_step", 1}, {"mlp_only_layers", nlohmann::json::array()}, {"tie_word_embeddings", false}});
  return config;
}

Outcome pass(const nlohmann::json& config, Recompute recompute = Recompute::kNone, at::ScalarType type = at::kFloat, bool policy = false,
             const char* fp8 = nullptr) {
  auto model = test::tiny_model(config);
  if (fp8 != nullptr) model->use_fp8(*kernels::fp8::find_recipe(fp8));
  model->set_recompute(recompute);
  std::set<const kernels::Parameter*> seen;
  for (const auto& used : model->parameters(true)) {
    kernels::Parameter& parameter = *used.parameter;
    parameter.value = parameter.value.to(type).requires_grad_(true);
    parameter.gradient = at::zeros(parameter.value.sizes(), at::kFloat);
  }
  std::vector<int32_t> positions;
  for (const Segment& s : kDeviceSegments)
    for (int64_t i = 0; i < s.length; ++i) positions.push_back(static_cast<int32_t>(s.first_position + i));
  const moe::RoutingTerms routing{.statistics = true, .balance_weight = 0.01, .z_weight = 0.001};
  const at::Tensor hidden = model->hidden_states(torch::tensor(kDeviceTokens, torch::kInt), torch::tensor(positions, torch::kInt), kDeviceSegments, routing);
  at::Tensor total;
  if (policy) {
    total = model->loss(hidden, kDeviceTargets, {.temperature = 0.7, .weigh = [](const float* log_probs, const float* entropies, float* weights) {
                                                   double loss = 0;
                                                   for (int i = 0; i < 7; ++i) {
                                                     weights[i] = 0.3f * static_cast<float>(i) - entropies[i];
                                                     loss -= double{weights[i]} * double{log_probs[i]};
                                                   }
                                                   return loss;
                                                 }}).loss;
  } else {
    total = model->loss(hidden, kDeviceTargets).loss;
  }
  std::vector<MtpRows> modules;  // until the backward pass is over
  if (config.value("num_nextn_predict_layers", 0) > 0) {
    const std::vector<int32_t> tokens(kDeviceTokens.begin(), kDeviceTokens.begin() + 9);
    const std::vector<Segment> segments(kDeviceSegments.begin(), kDeviceSegments.begin() + 3);
    modules = mtp_rows(tokens, segments, {{0, 1, 2, 3, 6, 7}, {11, 12, 13, 14, 31, 32}, {1, 1, 1, 1, 1, 1}}, {0.3});
    for (const auto& part : model->mtp_losses(hidden, modules, routing)) total = total + part.loss;
  }
  total.backward();
  Outcome outcome;
  outcome.loss = total.item<double>();
  for (const auto& entry : model->routers(true)) {
    const auto& sums = entry.router->sums();
    outcome.balance += sums.balance_loss.item<double>();
    outcome.z += sums.z_loss.item<double>();
    const at::Tensor counts = sums.counts.cpu();
    outcome.counts.insert(outcome.counts.end(), counts.const_data_ptr<int64_t>(), counts.const_data_ptr<int64_t>() + counts.numel());
  }
  for (const auto& weight : model->weights()) {
    if (weight.buffer) continue;
    outcome.names.push_back(weight.name);
    outcome.gradients.push_back(weight.parameter->gradient);
  }
  return outcome;
}

void expect_near(const Outcome& actual, const Outcome& expected, double tolerance) {
  EXPECT_NEAR(actual.loss, expected.loss, tolerance * std::abs(expected.loss));
  EXPECT_NEAR(actual.balance, expected.balance, tolerance * std::abs(expected.balance));
  EXPECT_NEAR(actual.z, expected.z, tolerance * std::abs(expected.z));
  for (size_t i = 0; i < expected.gradients.size(); ++i) {
    const double norm = expected.gradients[i].norm().item<double>();
    EXPECT_LE((actual.gradients[i] - expected.gradients[i]).norm().item<double>(), tolerance * norm) << expected.names[i];
    EXPECT_GT(norm, 0) << expected.names[i];
  }
}

class Device : public testing::TestWithParam<std::tuple<const char*, const char*>> {
 protected:
  const std::string accelerator = std::get<0>(GetParam()), name = std::get<1>(GetParam());
};
INSTANTIATE_TEST_SUITE_P(Families, Device, testing::Combine(testing::ValuesIn(kAccelerators), testing::Values("llama", "qwen3_moe", "deepseek_v3")),
                         [](const auto& info) { return std::string(std::get<0>(info.param)) + "_" + std::get<1>(info.param); });

TEST_P(Device, PassesAreThoseOfTheCpu) {
  for (const bool policy : {false, true}) {
    const Outcome cpu = pass(family(name), Recompute::kNone, at::kFloat, policy);
    const InPlaceOfTheCpu there(accelerator);
    for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kFull}) {
      const Outcome device = pass(family(name), recompute, at::kFloat, policy);
      expect_near(device, cpu, 2e-5);
      EXPECT_EQ(device.counts, cpu.counts);
    }
  }
}

// Where a sum's last bit differs an element may be rounded to its other neighbour.
TEST_P(Device, Fp8IsThatOfTheCpuButForRoundings) {
  for (const char* recipe : {"blockwise", "tensorwise"}) {
    const Outcome cpu = pass(family(name), Recompute::kNone, at::kFloat, false, recipe), exact = pass(family(name));
    const InPlaceOfTheCpu there(accelerator);
    for (const Recompute recompute : {Recompute::kNone, Recompute::kFull}) {
      const Outcome device = pass(family(name), recompute, at::kFloat, false, recipe);
      EXPECT_EQ(device.counts, cpu.counts);
      EXPECT_LT(std::abs(device.loss - cpu.loss), 0.05 * std::abs(exact.loss - cpu.loss)) << recipe;
      expect_near(device, cpu, 0.03);
    }
  }
}

// Without experts: a rounded score chooses others.
TEST(DeviceInBfloat16, IsNearFloat32) {
  const Outcome cpu = pass(family("llama"));
  for (const char* accelerator : kAccelerators) {
    const InPlaceOfTheCpu there(accelerator);
    const Outcome device = pass(family("llama"), Recompute::kNone, at::kBFloat16);
    EXPECT_NE(device.loss, cpu.loss);
    expect_near(device, cpu, 0.03);
  }
}

}  // namespace
}  // namespace tessera::model
