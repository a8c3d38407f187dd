// Generation on another device's kernels: the tokens and log-probabilities of the CPU's.
#include "inference/engine.h"
#include "tests/support/accelerators.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

namespace tessera::inference {
namespace {

nlohmann::json family_config(const std::string& name) {
  if (name == "deepseek_v3") return test::tiny_deepseek_config();
  auto config = test::tiny_config();
  config["model_type"] = name;
  return config;
}

/// Groups of samples behind prompts of many lengths, some longer than a page of the cache.
std::vector<Request> device_requests() {
  std::vector<Request> requests;
  uint64_t number = 0;
  for (int i = 0; i < 5; ++i) {
    requests.emplace_back();
    for (int t = 0; t < 1 + i * 10; ++t) requests.back().prompt.push_back((3 * i + 5 * t) % 37);
    for (int s = 0; s < 1 + i % 3; ++s) requests.back().samples.push_back(number++);
  }
  return requests;
}

void expect_same(const std::vector<Completion>& actual, const std::vector<Completion>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_EQ(actual[i].tokens, expected[i].tokens) << i;
    EXPECT_EQ(actual[i].finish_reason, expected[i].finish_reason) << i;
    EXPECT_EQ(actual[i].stop_id, expected[i].stop_id) << i;
    EXPECT_EQ(actual[i].experts, expected[i].experts) << i;
    ASSERT_EQ(actual[i].log_probs.size(), expected[i].log_probs.size()) << i;
    for (size_t t = 0; t < actual[i].log_probs.size(); ++t) EXPECT_NEAR(actual[i].log_probs[t], expected[i].log_probs[t], 2e-5) << i << " " << t;
  }
}

class GenerationOnDevices : public testing::TestWithParam<std::tuple<const char*, const char*>> {
 protected:
  const std::string accelerator = std::get<0>(GetParam());
  const nlohmann::json config = family_config(std::get<1>(GetParam()));
};
INSTANTIATE_TEST_SUITE_P(Families, GenerationOnDevices, testing::Combine(testing::ValuesIn(test::kAccelerators), testing::Values("llama", "qwen3", "deepseek_v3")),
                         [](const auto& info) { return std::string(std::get<0>(info.param)) + "_" + std::get<1>(info.param); });

TEST_P(GenerationOnDevices, IsThatOfTheCpu) {
  const auto model = test::tiny_model(config);
  const auto requests = device_requests();
  for (const SamplingConfig& sampling : {SamplingConfig{.temperature = 0, .max_new_tokens = 12, .stop_ids = {4}, .log_probs = true},
                                         SamplingConfig{.temperature = 1.1, .max_new_tokens = 8, .seed = 3, .stop_ids = {4}, .log_probs = true},
                                         SamplingConfig{.temperature = 0.9, .top_p = 0.8, .top_k = 10, .max_new_tokens = 4, .seed = 5, .log_probs = true}}) {
    const EngineConfig how{.max_batch = 4, .draft = false, .record_experts = config["model_type"] == "deepseek_v3"};
    const auto cpu = Engine(*model, how).generate(requests, sampling);
    const test::InPlaceOfTheCpu there(accelerator);
    expect_same(Engine(*model, how).generate(requests, sampling), cpu);
  }
}

TEST_P(GenerationOnDevices, DraftsAndScoresToo) {
  const auto model = test::tiny_model(config);
  std::vector<std::vector<int32_t>> prompts;
  for (const auto& request : device_requests()) prompts.push_back(request.prompt);
  const SamplingConfig sampling{.temperature = 0, .max_new_tokens = 8};
  Engine engine(*model, {.max_batch = 3});
  const auto cpu = engine.generate(prompts, sampling);
  const auto drafts = engine.drafts();
  const auto scores = engine.score(prompts);
  const test::InPlaceOfTheCpu there(accelerator);
  expect_same(engine.generate(prompts, sampling), cpu);
  EXPECT_EQ(engine.drafts().accepted, drafts.accepted);
  const auto again = engine.score(prompts);
  for (size_t i = 0; i < scores.size(); ++i)
    for (size_t t = 1; t < scores[i].size(); ++t) EXPECT_NEAR(again[i][t], scores[i][t], 2e-5);
}

// Weights and activations in bfloat16, as on a GPU: near the CPU's log-probabilities of the same tokens.
TEST_P(GenerationOnDevices, InBfloat16) {
  const auto model = test::tiny_model(config), exact = test::tiny_model(config);
  for (const auto& weight : model->weights())
    if (!weight.buffer) weight.parameter->value = weight.parameter->value.to(at::kBFloat16);
  const SamplingConfig sampling{.temperature = 1.0, .max_new_tokens = 8, .seed = 3, .log_probs = true};
  std::vector<Completion> made;
  const auto requests = device_requests();
  {
    const test::InPlaceOfTheCpu there(accelerator);
    made = Engine(*model, {.draft = false}).generate(requests, sampling);
  }
  double off = 0, count = 0;
  size_t i = 0;
  for (const Request& request : requests)
    for (size_t s = 0; s < request.samples.size(); ++s, ++i) {
      auto whole = request.prompt;
      whole.insert(whole.end(), made[i].tokens.begin(), made[i].tokens.end());
      const auto scores = Engine(*exact).score({whole})[0];
      for (size_t t = 0; t < made[i].tokens.size(); ++t) off += std::abs(scores[request.prompt.size() + t] - made[i].log_probs[t]), ++count;
    }
  EXPECT_GT(off, 0);
  EXPECT_LT(off / count, 0.05);
}

}  // namespace
}  // namespace tessera::inference
