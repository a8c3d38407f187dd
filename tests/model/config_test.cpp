#include "model/config.h"

#include <torch/torch.h>

#include <numbers>

#include "core/error.h"
#include "core/file.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

namespace tessera::model {
namespace {

using nlohmann::json;
using test::message_of;
using test::tiny_config;

TEST(ModelConfig, ReadsAndFillsInDefaults) {
  json object = tiny_config();
  object["eos_token_id"] = {3, 5};
  object["attention_bias"] = true;
  const ModelConfig c = ModelConfig::from_json(object, "c");
  EXPECT_EQ(c.vocab_size, 37);
  EXPECT_EQ(c.head_dim, 6);
  EXPECT_EQ(c.num_key_value_heads, 2);
  EXPECT_TRUE(c.attention_bias);
  EXPECT_FALSE(c.mlp_bias);
  EXPECT_THAT(c.eos_token_ids, testing::ElementsAre(3, 5));
  EXPECT_EQ(c.raw, object);
  for (const char* key : {"head_dim", "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings"}) object.erase(key);
  object["eos_token_id"] = 7;
  object["rope_theta"] = nullptr;
  const ModelConfig d = ModelConfig::from_json(object, "d");
  EXPECT_EQ(d.head_dim, 4);
  EXPECT_EQ(d.num_key_value_heads, 4);
  EXPECT_EQ(d.max_position_embeddings, 2048);
  EXPECT_FALSE(d.tie_word_embeddings);
  EXPECT_EQ(d.rope.theta, 10000.0);
  EXPECT_THAT(d.eos_token_ids, testing::ElementsAre(7));
}

TEST(ModelConfig, WhatItDoesNotKnowIsRefusedByName) {
  const std::vector<std::tuple<const char*, json, const char*>> cases = {
      {"model_type", "mixtral", "model_type 'mixtral' is not supported; known: llama"},
      {"model_type", nullptr, "model_type '' is not supported"},
      {"hidden_act", "gelu", "'hidden_act' 'gelu' is not supported"},
      {"attention_dropout", 0.1, "'attention_dropout' is not supported; set it to 0"},
      {"sliding_window", 128, "'sliding_window' is not supported"},
      {"quantization_config", json::object(), "'quantization_config' is not supported"},
      {"pretraining_tp", 2, "'pretraining_tp' other than 1"},
      {"pretraining_tp", "two", "'pretraining_tp' must be an integer"},
      {"rope_scaling", {{"rope_type", "yarn"}}, "rope_scaling.rope_type 'yarn' is not supported"},
      {"rope_scaling", 2, "'rope_scaling' must be an object"},
      {"rope_parameters", {{"rope_type", "llama3"}}, "'original_max_position_embeddings' is missing"},
      {"head_dim", 7, "head_dim = 7 must be even"},
      {"num_key_value_heads", 3, "num_key_value_heads = 3 must divide num_attention_heads = 4"},
      {"hidden_size", 0, "'hidden_size' = 0 must be a positive number"},
      {"vocab_size", -5, "'vocab_size' = -5"},
      {"vocab_size", nullptr, "'vocab_size' is missing"},
      {"vocab_size", "37", "'vocab_size' must be an integer"},
      {"num_attention_heads", 0, "'num_attention_heads' = 0 must be a positive number"},
      {"num_hidden_layers", 1e3, "'num_hidden_layers' must be an integer"},
      {"rms_norm_eps", "small", "'rms_norm_eps' must be a number"},
      {"tie_word_embeddings", 1, "'tie_word_embeddings' must be true or false"},
      {"eos_token_id", "end", "'eos_token_id' must be an integer"},
  };
  for (const auto& [key, value, message] : cases) {
    json object = tiny_config();
    object[key] = value;
    const std::string text = message_of<ConfigError>([&] { (void)ModelConfig::from_json(object, "m/config.json"); });
    EXPECT_THAT(text, testing::HasSubstr(message)) << key;
    EXPECT_THAT(text, testing::StartsWith("m/config.json: ")) << key;
  }
  json object = tiny_config();
  object["sliding_window"] = 128;  // as some files carry it, switched off
  object["use_sliding_window"] = false;
  object["pretraining_tp"] = nullptr;
  EXPECT_NO_THROW((void)ModelConfig::from_json(object, "c"));
}

TEST(ModelConfig, AFolderWithoutAConfigIsNamed) {
  const test::TemporaryFolder folder;
  EXPECT_THAT(message_of<ConfigError>([&] { (void)ModelConfig::load(folder.path()); }), testing::HasSubstr("config.json does not exist"));
  write_file_atomically(folder / "config.json", "{\"model_type\": ");
  EXPECT_THAT(message_of<ConfigError>([&] { (void)ModelConfig::load(folder.path()); }), testing::HasSubstr("not valid JSON"));
  write_file_atomically(folder / "config.json", "[]");
  EXPECT_THAT(message_of<ConfigError>([&] { (void)ModelConfig::load(folder.path()); }), testing::HasSubstr("not a JSON object"));
}

TEST(ModelConfig, Llama3ScalingKeepsHighFrequenciesAndSlowsLowOnes) {
  json object = tiny_config();
  object["head_dim"] = 64;
  object["rope_theta"] = 500000.0;
  const auto plain = ModelConfig::from_json(object, "c").inverse_frequencies();
  object["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 8192}};
  const auto scaled = ModelConfig::from_json(object, "c").inverse_frequencies();
  ASSERT_EQ(plain.size(), 32u);
  EXPECT_EQ(plain[0], 1.0);
  EXPECT_NEAR(plain[16], 1.0 / std::sqrt(500000.0), 1e-12);
  int kept = 0, slowed = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    const double wavelength = 2 * std::numbers::pi / plain[i];
    if (wavelength < 8192 / 4.0) {
      EXPECT_EQ(scaled[i], plain[i]);
      ++kept;
    }
    if (wavelength > 8192) {
      EXPECT_DOUBLE_EQ(scaled[i], plain[i] / 8);
      ++slowed;
    }
    EXPECT_LE(scaled[i], plain[i]);
    EXPECT_GE(scaled[i], plain[i] / 8);
  }
  EXPECT_GT(kept, 0);
  EXPECT_GT(slowed, 0);
  EXPECT_LT(kept + slowed, 32);  // and some in between
}

TEST(CausalLM, WeightsHaveTheHuggingFaceNames) {
  const auto names = [](const json& config) {
    std::vector<std::string> list;
    for (const auto& weight : CausalLM(ModelConfig::from_json(config, "c")).weights()) list.push_back(weight.name);
    return list;
  };
  json config = tiny_config();
  config["num_hidden_layers"] = 1;
  const std::string p = "model.layers.0.";
  EXPECT_THAT(names(config), testing::ElementsAre("model.embed_tokens.weight", p + "input_layernorm.weight", p + "self_attn.q_proj.weight",
                                                  p + "self_attn.k_proj.weight", p + "self_attn.v_proj.weight", p + "self_attn.o_proj.weight",
                                                  p + "post_attention_layernorm.weight", p + "mlp.gate_proj.weight", p + "mlp.up_proj.weight",
                                                  p + "mlp.down_proj.weight", "model.norm.weight"));
  config["tie_word_embeddings"] = false;
  EXPECT_THAT(names(config), testing::Contains("lm_head.weight"));
  EXPECT_EQ(names(config).size(), 12u);
  config["attention_bias"] = true;
  EXPECT_EQ(names(config).size(), 16u);
  EXPECT_THAT(names(config), testing::Contains(p + "self_attn.o_proj.bias"));
  config["mlp_bias"] = true;
  EXPECT_EQ(names(config).size(), 19u);
  EXPECT_THAT(names(config), testing::IsSupersetOf({p + "mlp.gate_proj.bias", p + "mlp.up_proj.bias", p + "mlp.down_proj.bias"}));
}

TEST(CausalLM, NamedWeightsCoverEachParameterExactlyOnce) {
  json config = tiny_config();
  config["attention_bias"] = config["mlp_bias"] = true;
  const CausalLM model(ModelConfig::from_json(config, "c"));
  std::map<kernels::Parameter*, std::vector<std::pair<int64_t, int64_t>>> ranges;
  for (const auto& weight : model.weights()) {
    ranges[weight.parameter.get()].emplace_back(weight.offset(), weight.offset() + weight.numel());
    EXPECT_EQ(weight.view().sizes(), at::IntArrayRef(weight.shape)) << weight.name;
  }
  const auto parameters = model.parameters();
  EXPECT_EQ(ranges.size(), parameters.size());
  for (const auto& used : parameters) {
    auto list = ranges.at(used.parameter.get());
    std::sort(list.begin(), list.end());
    int64_t covered = 0;
    for (const auto& [begin, end] : list) {
      EXPECT_EQ(begin, covered);
      covered = end;
    }
    EXPECT_EQ(covered, used.parameter->value.numel());
  }
  EXPECT_EQ(parameters.front().uses, 2);  // the tied embedding
}

TEST(CausalLM, FreshWeightsDependOnTheSeedOnly) {
  const auto one = test::tiny_model(tiny_config(), 3), same = test::tiny_model(tiny_config(), 3), other = test::tiny_model(tiny_config(), 4);
  const auto a = one->weights(), b = same->weights(), c = other->weights();
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(a[i].view().equal(b[i].view())) << a[i].name;
    EXPECT_FALSE(a[i].view().equal(c[i].view())) << a[i].name;
  }
  EXPECT_NEAR(a[0].view().std().item<double>(), 0.3, 0.03);
}

TEST(CausalLM, PackedDocumentsDoNotSeeEachOther) {
  const auto model = test::tiny_model();
  at::NoGradGuard no_grad;
  const std::vector<int32_t> a = {1, 2, 3, 4, 5}, b = {9, 8, 7};
  const at::Tensor packed = test::hidden_states(*model, {a, b});
  EXPECT_LT((packed.narrow(0, 0, 5) - test::hidden_states(*model, {a})).abs().max().item<double>(), 1e-5);
  EXPECT_LT((packed.narrow(0, 5, 3) - test::hidden_states(*model, {b})).abs().max().item<double>(), 1e-5);
  EXPECT_GT((packed.narrow(0, 0, 3) - test::hidden_states(*model, {b})).abs().max().item<double>(), 1e-2);
}

}  // namespace
}  // namespace tessera::model
