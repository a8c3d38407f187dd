#include "model/lora.h"

#include <malloc.h>

#include <fstream>

#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "core/file.h"
#include "model/hf_folder.h"
#include "parallel/communicator.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

namespace tessera::model {
namespace {

using nlohmann::json;
using test::hidden_states;
using test::message_of;
using test::TemporaryFolder;
using test::tiny_config;
using test::tiny_model;

const std::vector<std::vector<int32_t>> kTexts = {{1, 5, 9, 2, 36, 0, 7}};
const LoraConfig kLora = {.r = 3, .alpha = 6, .target_modules = {"q_proj", "v_proj", "up_proj", "down_proj"}};

void randomize_b(CausalLM& model) {
  auto generator = at::detail::createCPUGenerator(5);
  for (const auto& weight : model.adapter_weights())
    if (weight.name.ends_with("lora_B.weight")) weight.view().copy_(at::randn(weight.shape, generator, at::kFloat).mul_(0.2));
}

TEST(Lora, FreshAdaptersChangeNothing) {
  at::NoGradGuard no_grad;
  const auto model = tiny_model();
  const at::Tensor before = hidden_states(*model, kTexts);
  add_adapters(*model, kLora, 7);
  EXPECT_TRUE(hidden_states(*model, kTexts).equal(before));
  merge_adapters(*model);
  EXPECT_TRUE(hidden_states(*model, kTexts).equal(before));
  EXPECT_TRUE(model->adapter_weights().empty());
}

TEST(Lora, AdaptersHavePeftsNamesAndShapes) {
  const auto model = tiny_model();
  add_adapters(*model, kLora, 7);
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const auto& weight : model->adapter_weights()) shapes[weight.name] = weight.shape;
  EXPECT_EQ(shapes.size(), 2u * 4 * 2);
  const std::string p = "base_model.model.model.layers.1.";
  EXPECT_THAT(shapes.at(p + "self_attn.q_proj.lora_A.weight"), testing::ElementsAre(3, 16));
  EXPECT_THAT(shapes.at(p + "self_attn.q_proj.lora_B.weight"), testing::ElementsAre(24, 3));
  EXPECT_THAT(shapes.at(p + "self_attn.v_proj.lora_B.weight"), testing::ElementsAre(12, 3));
  EXPECT_THAT(shapes.at(p + "mlp.down_proj.lora_A.weight"), testing::ElementsAre(3, 24));
  for (const auto& weight : model->adapter_weights()) {
    if (weight.name.ends_with("lora_B.weight")) continue;
    const double bound = 1.0 / std::sqrt(static_cast<double>(weight.shape[1]));
    EXPECT_LE(weight.view().abs().max().item<double>(), bound) << weight.name;
    EXPECT_GT(weight.view().abs().max().item<double>(), bound / 2) << weight.name;
  }
}

TEST(Lora, MergingEqualsTheExplicitSum) {
  at::NoGradGuard no_grad;
  const auto model = tiny_model();
  std::map<std::string, at::Tensor> expected;
  for (const auto& weight : model->weights()) expected[weight.name] = weight.view().to(torch::kDouble);
  add_adapters(*model, kLora, 7);
  randomize_b(*model);
  std::map<std::string, at::Tensor> adapters;
  for (const auto& weight : model->adapter_weights()) adapters[weight.name] = weight.view().to(torch::kDouble);
  for (const auto& [name, a] : adapters) {
    if (!name.ends_with(".lora_A.weight")) continue;
    const std::string stem = name.substr(0, name.size() - std::string(".lora_A.weight").size());
    expected.at(stem.substr(std::string("base_model.model.").size()) + ".weight") += 2.0 * adapters.at(stem + ".lora_B.weight").mm(a);
  }
  const at::Tensor adapted = hidden_states(*model, kTexts);
  merge_adapters(*model);
  for (const auto& weight : model->weights())
    EXPECT_LT((weight.view() - expected.at(weight.name)).abs().max().item<double>(), 1e-6) << weight.name;
  const at::Tensor merged = hidden_states(*model, kTexts);
  EXPECT_LT((merged - adapted).abs().max().item<double>(), 1e-4 * adapted.abs().max().item<double>());
  EXPECT_GT((merged - hidden_states(*tiny_model(), kTexts)).abs().max().item<double>(), 1e-2);
}

TEST(Lora, APeftFolderLoadsMerged) {
  at::NoGradGuard no_grad;
  const TemporaryFolder base, adapter;
  const auto model = tiny_model();
  save_weights(*model, base.path(), at::kFloat);
  add_adapters(*model, kLora, 7);
  randomize_b(*model);
  save_adapter(*model, kLora, base.path().string(), adapter.path());
  EXPECT_EQ(base_folder(adapter.path()), base.path());
  EXPECT_EQ(base_folder(base.path()), base.path());
  merge_adapters(*model);
  const auto loaded = load_model(adapter.path());
  const auto left = model->weights(), right = loaded->weights();
  for (size_t i = 0; i < left.size(); ++i) EXPECT_TRUE(left[i].view().equal(right[i].view())) << left[i].name;

  json config = json::parse(read_text_file(adapter / "adapter_config.json"));
  const auto with = [&](const char* key, const json& value) {
    json changed = config;
    changed[key] = value;
    write_file_atomically(adapter / "adapter_config.json", changed.dump());
    return message_of<ConfigError>([&] { (void)load_model(adapter.path()); });
  };
  EXPECT_THAT(with("peft_type", "IA3"), testing::HasSubstr("'peft_type' must be LORA"));
  EXPECT_THAT(with("use_dora", true), testing::HasSubstr("'use_dora' is not supported"));
  EXPECT_THAT(with("rank_pattern", {{"q_proj", 4}}), testing::HasSubstr("'rank_pattern' is not supported"));
  EXPECT_THAT(with("base_model_name_or_path", "/no/such/base"), testing::HasSubstr("nothing is downloaded"));
  EXPECT_THAT(with("r", 5), testing::HasSubstr("has shape [3, 16]"));
  EXPECT_THAT(with("target_modules", {"q_proj"}), testing::HasSubstr("has no place for"));
}

TEST(Lora, LatentAttentionTakesAdaptersExpertsDoNot) {
  at::NoGradGuard no_grad;
  const auto model = tiny_model(test::tiny_deepseek_config());
  const LoraConfig lora = {.r = 2, .alpha = 4, .target_modules = {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}};
  add_adapters(*model, lora, 7);
  randomize_b(*model);
  EXPECT_EQ(model->adapter_weights().size(), 2u * 5 * 2);
  const at::Tensor adapted = hidden_states(*model, kTexts);
  merge_adapters(*model);
  const at::Tensor merged = hidden_states(*model, kTexts);
  EXPECT_LT((merged - adapted).abs().max().item<double>(), 1e-4 * adapted.abs().max().item<double>());
  EXPECT_THAT(message_of<ConfigError>([&] { add_adapters(*model, {.target_modules = {"o_proj", "up_proj"}}, 7); }),
              testing::HasSubstr("'up_proj' are the model's experts, which take no adapters"));
}

TEST(Lora, MistakesAreNamed) {
  const auto refusal = [](LoraConfig lora) {
    const auto model = tiny_model();
    return message_of<ConfigError>([&] { check_targets(add_adapters(*model, lora, 0), lora); });
  };
  EXPECT_THAT(refusal({.r = 0}), testing::HasSubstr("model.lora.r = 0 must be positive"));
  EXPECT_THAT(refusal({.alpha = 0}), testing::HasSubstr("model.lora.alpha = 0 must be positive"));
  EXPECT_THAT(refusal({.dropout = 0.1}), testing::HasSubstr("model.lora.dropout = 0.1 is not supported"));
  EXPECT_THAT(refusal({.target_modules = {}}), testing::HasSubstr("target_modules is empty"));
  EXPECT_THAT(refusal({.target_modules = {"q_proj", "query"}}),
              testing::HasSubstr("no layer is called 'query'; known: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"));
}

/// In float32, with the experts of a layer in one tensor.
void save_stacked(const CausalLM& model, const json& config, const std::filesystem::path& folder) {
  std::vector<checkpoint::TensorToWrite> tensors;
  const auto add = [&](const NamedWeight& w) { tensors.push_back({w.name, at::kFloat, w.shape, [w] { return w.view(); }}); };
  for (const auto& weight : model.weights())
    if (weight.name.find(".experts.") == std::string::npos) add(weight);
  for (const auto& stack : model.stacks()) add(stack);
  checkpoint::write_safetensors_folder(folder, "model", tensors);
  write_file_atomically(folder / "config.json", config.dump());
}

/// Every architecture's frozen weights as codes, of a folder that holds codes already, of one in float32, and of one whose experts are
/// stacked: the numbers of the FP8 folder, read as float32.
TEST(LoraOverFp8, KeepsTheNumbersThatAnFp8FolderHolds) {
  at::NoGradGuard no_grad;
  for (const json& config : {tiny_config(), test::tiny_deepseek_config()}) {
    const auto model = tiny_model(config);
    const TemporaryFolder plain, fp8, stacked;
    save_weights(*model, plain.path(), at::kFloat);
    save_weights(*model, fp8.path(), WeightFormat{.dtype = at::kFloat, .fp8_blocks = true});
    save_stacked(*model, config, stacked.path());
    const auto expected = load_model(fp8.path());
    size_t codes = 0;
    for (const auto& folder : {plain.path(), fp8.path(), stacked.path()}) {
      CausalLM kept(load_config(fp8.path()));
      kept.keep_frozen_in_fp8();
      load_weights(kept, folder);
      const auto left = kept.weights(), right = expected->weights();
      for (size_t i = 0; i < left.size(); ++i) {
        EXPECT_TRUE(left[i].values().equal(right[i].view())) << left[i].name;
        EXPECT_EQ(left[i].parameter->codes != nullptr, left[i].projection) << left[i].name;
        codes += left[i].parameter->codes != nullptr;
      }
      EXPECT_TRUE(hidden_states(kept, kTexts).equal(hidden_states(*expected, kTexts)));
      EXPECT_FALSE(hidden_states(kept, kTexts).equal(hidden_states(*model, kTexts)));
      // Merging makes float32 of what it changes.
      const LoraConfig lora = {.r = 2, .alpha = 4, .target_modules = {"o_proj"}};
      const auto merged = load_model(fp8.path());
      for (CausalLM* each : {&kept, merged.get()}) {
        add_adapters(*each, lora, 7);
        randomize_b(*each);
        merge_adapters(*each);
      }
      EXPECT_TRUE(hidden_states(kept, kTexts).equal(hidden_states(*merged, kTexts)));
      EXPECT_FALSE(hidden_states(kept, kTexts).equal(hidden_states(*expected, kTexts)));
    }
    EXPECT_GT(codes, 3u * 12);
  }
}

// A rank reads its experts' part of a stack, and blocks begin at each expert.
TEST(LoraOverFp8, RanksKeepTheirExperts) {
  const auto model = tiny_model(test::tiny_deepseek_config());
  const TemporaryFolder fp8, stacked;
  save_weights(*model, fp8.path(), WeightFormat{.dtype = at::kFloat, .fp8_blocks = true});
  save_stacked(*model, test::tiny_deepseek_config(), stacked.path());
  const auto whole = load_model(fp8.path());
  std::map<std::string, at::Tensor> expected;
  for (const auto& weight : whole->weights()) expected[weight.name] = weight.view();
  size_t experts = 0;
  for (const auto& folder : {fp8.path(), stacked.path()}) {
    const auto first = parallel::make_dry_run_communicator(0, 2), second = parallel::make_dry_run_communicator(1, 2);
    CausalLM low(load_config(folder), Shard{.ep = {first.get(), nullptr, nullptr}}), high(load_config(folder), Shard{.ep = {second.get(), nullptr, nullptr}});
    for (CausalLM* part : {&low, &high}) part->keep_frozen_in_fp8();
    load_weights({&low, &high}, folder, *parallel::make_self_communicator());
    for (const CausalLM* part : {&low, &high}) {
      for (const auto& weight : part->weights()) {
        EXPECT_TRUE(weight.values().equal(expected.at(weight.name))) << weight.name;
        experts += weight.name.find("layers.1.mlp.experts.") != std::string::npos;
      }
    }
  }
  EXPECT_EQ(experts, 2u * 8 * 3);
}

/// Memory of this process that no file backs, without what malloc keeps for later.
int64_t anonymous_bytes() {
  ::malloc_trim(0);
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("RssAnon:")) return std::stoll(line.substr(8)) * 1024;
  return 0;
}

TEST(LoraOverFp8, TakesOneByteAParameter) {
  at::NoGradGuard no_grad;
  json config = tiny_config();
  config.update({{"hidden_size", 1024}, {"intermediate_size", 4096}, {"num_attention_heads", 16}, {"num_key_value_heads", 8}, {"head_dim", 64}});
  const TemporaryFolder folder;
  save_weights(*tiny_model(config), folder.path(), at::kBFloat16);
  for (const bool codes : {true, false}) {
    const int64_t before = anonymous_bytes();
    ASSERT_GT(before, 0);
    CausalLM model(load_config(folder.path()));
    if (codes) model.keep_frozen_in_fp8();
    load_weights(model, folder.path());
    (void)hidden_states(model, kTexts);
    int64_t parameters = 0;
    for (const auto& weight : model.weights()) parameters += weight.numel();
    ASSERT_GT(parameters, 30'000'000);
    const double bytes_a_parameter = static_cast<double>(anonymous_bytes() - before) / static_cast<double>(parameters);
    RecordProperty(codes ? "bytes_a_parameter" : "bytes_a_parameter_in_float32", std::to_string(bytes_a_parameter));
    EXPECT_NEAR(bytes_a_parameter, codes ? 1 : 4, 0.1);
  }
}

TEST(LoraOverFp8, UnknownNamesOfTheBaseAreRefused) {
  LoraConfig lora;
  lora.base = "fp16";
  EXPECT_THAT(message_of<ConfigError>([&] { lora.validate(); }), testing::HasSubstr("model.lora.base = 'fp16' is not known; use one of float32, fp8"));
}

}  // namespace
}  // namespace tessera::model
