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
      {"model_type", "gpt2", "model_type 'gpt2' is not supported; known: deepseek_v2, deepseek_v3, llama, mistral"},
      {"model_type", nullptr, "model_type '' is not supported"},
      {"hidden_act", "gelu", "'hidden_act' 'gelu' is not supported"},
      {"attention_dropout", 0.1, "'attention_dropout' is not supported; set it to 0"},
      {"sliding_window", 128, "'sliding_window' is not supported"},
      {"quantization_config", json::object(), "'quantization_config' is not supported"},
      {"pretraining_tp", 2, "'pretraining_tp' other than 1"},
      {"pretraining_tp", "two", "'pretraining_tp' must be an integer"},
      {"rope_scaling", {{"rope_type", "longrope"}}, "rope_scaling.rope_type 'longrope' is not supported; known: default, llama3, yarn"},
      {"partial_rotary_factor", 0.5, "'partial_rotary_factor' other than 1"},
      {"layer_types", {"full_attention", "sliding_attention"}, "'layer_types' with \"sliding_attention\" is not supported"},
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

TEST(ModelConfig, YarnsNumbersAreThoseOfDeepseekV3) {
  json object = test::tiny_deepseek_config();
  object["qk_nope_head_dim"] = 128;
  object["qk_rope_head_dim"] = 64;
  const auto plain = ModelConfig::from_json(object, "c").inverse_frequencies();
  object["rope_scaling"] = {{"type", "yarn"}, {"factor", 40}, {"original_max_position_embeddings", 4096}, {"beta_fast", 32}, {"beta_slow", 1},
                            {"mscale", 1.0}, {"mscale_all_dim", 1.0}};
  const ModelConfig config = ModelConfig::from_json(object, "c");
  const auto scaled = config.inverse_frequencies();
  for (size_t i = 0; i <= 10; ++i) EXPECT_DOUBLE_EQ(scaled[i], plain[i]);
  for (size_t i = 23; i < 32; ++i) EXPECT_DOUBLE_EQ(scaled[i], plain[i] / 40);
  EXPECT_GT(scaled[16], plain[16] / 40);
  EXPECT_LT(scaled[16], plain[16]);
  EXPECT_NEAR(config.rope.latent_scale(), 1.873854, 1e-6);
  EXPECT_DOUBLE_EQ(config.rope.attention_factor(), 1.0);
}

TEST(ModelConfig, BothSpellingsOfDeepseeksKeysMeanTheSame) {
  const json old = test::tiny_deepseek_config();
  json fresh = old;
  fresh["num_local_experts"] = fresh["n_routed_experts"];
  fresh["num_mtp_layers"] = fresh["num_nextn_predict_layers"];
  fresh["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 10000.0}};
  for (const char* key : {"n_routed_experts", "num_nextn_predict_layers", "scoring_func", "topk_method", "rope_theta"}) fresh.erase(key);
  const ModelConfig a = ModelConfig::from_json(old, "a"), b = ModelConfig::from_json(fresh, "b");
  EXPECT_EQ(a.moe.num_experts, b.moe.num_experts);
  EXPECT_EQ(a.num_mtp_modules, b.num_mtp_modules);
  EXPECT_EQ(a.inverse_frequencies(), b.inverse_frequencies());
  EXPECT_EQ(a.moe_layers, (std::vector<bool>{false, true}));
  EXPECT_TRUE(a.is_moe_layer(2));  // an MTP module
}

TEST(ModelConfig, WhatAFamilyDoesNotKnowIsRefusedByName) {
  const auto refusal = [](json object, const char* key, const json& value) {
    object[key] = value;
    return message_of<ConfigError>([&] { (void)ModelConfig::from_json(object, "c"); });
  };
  const json v3 = test::tiny_deepseek_config();
  EXPECT_THAT(refusal(v3, "scoring_func", "softmax"), testing::HasSubstr("'scoring_func' = \"softmax\" is not supported; known: \"sigmoid\""));
  EXPECT_THAT(refusal(v3, "topk_method", "greedy"), testing::HasSubstr("'topk_method' = \"greedy\""));
  EXPECT_THAT(refusal(v3, "num_experts_per_tok", 9), testing::HasSubstr("num_experts_per_tok = 9 must be between 1 and the number of experts, 8"));
  EXPECT_THAT(refusal(v3, "n_group", 3), testing::HasSubstr("n_group = 3 must divide"));
  EXPECT_THAT(refusal(v3, "n_group", 8), testing::HasSubstr("fewer than num_experts_per_tok"));
  EXPECT_THAT(refusal(v3, "kv_lora_rank", 0), testing::HasSubstr("'kv_lora_rank' = 0"));
  EXPECT_THAT(refusal(v3, "qk_rope_head_dim", 3), testing::HasSubstr("qk_rope_head_dim = 3 must be even"));
  EXPECT_THAT(refusal(v3, "num_key_value_heads", 2), testing::HasSubstr("must be num_attention_heads"));
  EXPECT_THAT(refusal(v3, "quantization_config", {{"quant_method", "gptq"}}), testing::HasSubstr("'quantization_config' is not supported"));
  EXPECT_THAT(refusal(v3, "quantization_config", {{"quant_method", "fp8"}}), testing::HasSubstr("'weight_block_size' must be two"));
  json v2 = v3;
  v2["model_type"] = "deepseek_v2";
  v2["scoring_func"] = "softmax";
  v2["topk_method"] = "greedy";
  v2["norm_topk_prob"] = false;
  EXPECT_NO_THROW((void)ModelConfig::from_json(v2, "c"));
  EXPECT_THAT(refusal(v2, "norm_topk_prob", true), testing::HasSubstr("'norm_topk_prob' = true is not supported"));
  json mistral = tiny_config();
  mistral["model_type"] = "mistral";
  EXPECT_THAT(refusal(mistral, "hidden_act", "silu"), testing::HasSubstr("'sliding_window' is missing, which means 4096"));
  EXPECT_THAT(refusal(mistral, "sliding_window", 4096), testing::HasSubstr("'sliding_window' is not supported"));
  mistral["sliding_window"] = nullptr;
  EXPECT_NO_THROW((void)ModelConfig::from_json(mistral, "c"));
  json qwen = tiny_config();
  qwen["model_type"] = "qwen2";
  qwen["sliding_window"] = 4096;
  EXPECT_NO_THROW((void)ModelConfig::from_json(qwen, "c"));
  EXPECT_THAT(refusal(qwen, "use_sliding_window", true), testing::HasSubstr("'sliding_window' is not supported"));
}

TEST(ModelConfig, MatmulParametersCountVisitedExpertsOnly) {
  const ModelConfig c = ModelConfig::from_json(test::tiny_deepseek_config(), "c");
  int64_t expected = 37 * 16;                                                               // head
  expected += 2 * (12 * 16 + 4 * 8 * 12 + 16 * (10 + 4) + 10 * 4 * (4 + 6) + 4 * 6 * 16);    // q_a, q_b, kv_a, kv_b, o
  expected += 3 * 16 * 24;                                                                  // dense layer
  expected += 8 * 16 + 3 * 16 * (2 * 12 + 12);                                              // router, 2 of 8 experts, shared
  EXPECT_EQ(c.matmul_parameters(), expected);
}

TEST(CausalLM, DeepseeksWeightsHaveTheHuggingFaceNames) {
  const CausalLM model(ModelConfig::from_json(test::tiny_deepseek_config(), "c"));
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const auto& weight : model.weights()) shapes[weight.name] = weight.shape;
  const std::string a = "model.layers.1.self_attn.", m = "model.layers.1.mlp.", p = "model.layers.2.";
  EXPECT_EQ(shapes.at(a + "q_a_proj.weight"), (std::vector<int64_t>{12, 16}));
  EXPECT_EQ(shapes.at(a + "q_a_layernorm.weight"), (std::vector<int64_t>{12}));
  EXPECT_EQ(shapes.at(a + "q_b_proj.weight"), (std::vector<int64_t>{32, 12}));
  EXPECT_EQ(shapes.at(a + "kv_a_proj_with_mqa.weight"), (std::vector<int64_t>{14, 16}));
  EXPECT_EQ(shapes.at(a + "kv_a_layernorm.weight"), (std::vector<int64_t>{10}));
  EXPECT_EQ(shapes.at(a + "kv_b_proj.weight"), (std::vector<int64_t>{40, 10}));
  EXPECT_EQ(shapes.at(a + "o_proj.weight"), (std::vector<int64_t>{16, 24}));
  EXPECT_EQ(shapes.at(m + "gate.weight"), (std::vector<int64_t>{8, 16}));
  EXPECT_EQ(shapes.at(m + "gate.e_score_correction_bias"), (std::vector<int64_t>{8}));
  EXPECT_EQ(shapes.at(m + "experts.7.up_proj.weight"), (std::vector<int64_t>{12, 16}));
  EXPECT_EQ(shapes.at(m + "experts.7.down_proj.weight"), (std::vector<int64_t>{16, 12}));
  EXPECT_EQ(shapes.at(m + "shared_experts.down_proj.weight"), (std::vector<int64_t>{16, 12}));
  EXPECT_EQ(shapes.at("model.layers.0.mlp.gate_proj.weight"), (std::vector<int64_t>{24, 16}));
  EXPECT_EQ(shapes.at(p + "eh_proj.weight"), (std::vector<int64_t>{16, 32}));
  for (const char* name : {"enorm.weight", "hnorm.weight", "shared_head.norm.weight", "input_layernorm.weight", "mlp.gate.weight"})
    EXPECT_EQ(shapes.count(p + name), 1u) << name;
  EXPECT_EQ(model.routers().size(), 1u);
  EXPECT_EQ(model.routers(true).size(), 2u);
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

/// The tiny Llama with all biases, Qwen3's norms, and DeepSeek-V3.
std::vector<json> kinds_of_model() {
  json biased = tiny_config(), qwen = tiny_config();
  biased["attention_bias"] = biased["mlp_bias"] = true;
  qwen["model_type"] = "qwen3";
  return {biased, qwen, test::tiny_deepseek_config()};
}

TEST(CausalLM, NamedWeightsCoverEachParameterExactlyOnce) {
  for (const json& config : kinds_of_model()) {
    const CausalLM model(ModelConfig::from_json(config, "c"));
    std::map<kernels::Parameter*, std::vector<std::pair<int64_t, int64_t>>> ranges;
    size_t buffers = 0;
    for (const auto& weight : model.weights()) {
      ranges[weight.parameter.get()].emplace_back(weight.offset(), weight.offset() + weight.numel());
      EXPECT_EQ(weight.view().sizes(), at::IntArrayRef(weight.shape)) << weight.name;
      buffers += weight.buffer ? 1 : 0;
    }
    const auto parameters = model.parameters(true);
    EXPECT_EQ(ranges.size(), parameters.size() + buffers);
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
    EXPECT_EQ(parameters.front().uses, 2);  // the tied embedding, or one that MTP uses too
  }
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
