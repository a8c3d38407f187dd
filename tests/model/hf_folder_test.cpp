#include "model/hf_folder.h"

#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "core/file.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

namespace tessera::model {
namespace {

using checkpoint::TensorToWrite;
using nlohmann::json;
using test::message_of;
using test::TemporaryFolder;
using test::tiny_config;
using test::tiny_model;
using testing::HasSubstr;

TensorToWrite to_write(const std::string& name, const at::Tensor& value) {
  return {name, value.scalar_type(), value.sizes().vec(), [value] { return value; }};
}

std::vector<TensorToWrite> tensors_of(const CausalLM& model, at::ScalarType dtype = at::kFloat) {
  std::vector<TensorToWrite> list;
  for (const auto& weight : model.weights()) list.push_back({weight.name, dtype, weight.shape, [weight] { return weight.view(); }});
  return list;
}

void expect_equal_weights(const CausalLM& a, const CausalLM& b) {
  const auto left = a.weights(), right = b.weights();
  ASSERT_EQ(left.size(), right.size());
  for (size_t i = 0; i < left.size(); ++i) EXPECT_TRUE(left[i].view().equal(right[i].view())) << left[i].name;
}

std::string refusal(const std::vector<TensorToWrite>& tensors, const json& config = tiny_config()) {
  const TemporaryFolder folder;
  checkpoint::write_safetensors_folder(folder.path(), "model", tensors);
  const auto model = tiny_model(config, 2);
  return message_of<ConfigError>([&] { load_weights(*model, folder.path()); });
}

TEST(LoadWeights, FillsEveryTensor) {
  json config = tiny_config();
  config["tie_word_embeddings"] = false;
  config["attention_bias"] = config["mlp_bias"] = true;
  const auto saved = tiny_model(config, 1), loaded = tiny_model(config, 2);
  const TemporaryFolder folder;
  save_weights(*saved, folder.path(), at::kFloat);
  load_weights(*loaded, folder.path());
  expect_equal_weights(*saved, *loaded);
  EXPECT_EQ(stored_dtype(folder.path()), at::kFloat);
  EXPECT_EQ(json::parse(read_text_file(folder / "config.json"))["dtype"], "float32");
  expect_equal_weights(*saved, *load_model(folder.path()));
}

TEST(LoadWeights, ReadsShardsAndHalfPrecision) {
  const auto saved = tiny_model();
  for (const auto dtype : {at::kBFloat16, at::kHalf}) {
    const TemporaryFolder folder;
    checkpoint::write_safetensors_folder(folder.path(), "model", tensors_of(*saved, dtype), 2000);
    EXPECT_TRUE(std::filesystem::exists(folder / "model.safetensors.index.json"));
    EXPECT_EQ(stored_dtype(folder.path()), dtype);
    const auto loaded = tiny_model(tiny_config(), 2);
    load_weights(*loaded, folder.path());
    const auto left = saved->weights(), right = loaded->weights();
    for (size_t i = 0; i < left.size(); ++i) EXPECT_TRUE(right[i].view().equal(left[i].view().to(dtype).to(at::kFloat))) << left[i].name;
  }
}

TEST(LoadWeights, AMissingTensorIsNamed) {
  auto tensors = tensors_of(*tiny_model());
  std::erase_if(tensors, [](const auto& t) { return t.name == "model.layers.1.mlp.up_proj.weight"; });
  EXPECT_THAT(refusal(tensors), HasSubstr("lacks 1 tensors that config.json asks for: model.layers.1.mlp.up_proj.weight"));
}

TEST(LoadWeights, AnExtraTensorIsNamed) {
  auto tensors = tensors_of(*tiny_model());
  tensors.push_back(to_write("model.layers.2.mlp.up_proj.weight", torch::zeros({24, 16})));
  EXPECT_THAT(refusal(tensors), HasSubstr("holds 1 tensors that config.json has no place for: model.layers.2.mlp.up_proj.weight"));
}

TEST(LoadWeights, AWrongShapeIsNamed) {
  auto tensors = tensors_of(*tiny_model());
  tensors[1] = to_write(tensors[1].name, torch::zeros({15}));
  EXPECT_THAT(refusal(tensors), testing::AllOf(HasSubstr("'model.layers.0.input_layernorm.weight' has shape [15]"), HasSubstr("[16]")));
}

TEST(LoadWeights, AnIntegerTensorIsNamed) {
  auto tensors = tensors_of(*tiny_model());
  tensors[1] = to_write(tensors[1].name, torch::zeros({16}, torch::kInt));
  EXPECT_THAT(refusal(tensors), testing::AllOf(HasSubstr("input_layernorm.weight' is of dtype Int"), HasSubstr("F32, BF16, F16 and FP8")));
}

TEST(LoadWeights, ATiedHeadMayBeStoredTooIfItIsTheEmbedding) {
  const auto saved = tiny_model();
  auto tensors = tensors_of(*saved);
  const at::Tensor embedding = saved->embedding()->value;
  tensors.push_back(to_write("lm_head.weight", embedding));
  tensors.push_back(to_write("model.layers.0.self_attn.rotary_emb.inv_freq", torch::zeros({3})));  // of old files: ignored
  const TemporaryFolder folder;
  checkpoint::write_safetensors_folder(folder.path(), "model", tensors);
  const auto loaded = tiny_model(tiny_config(), 2);
  load_weights(*loaded, folder.path());
  expect_equal_weights(*saved, *loaded);
  tensors[tensors.size() - 2] = to_write("lm_head.weight", embedding + 1);
  EXPECT_THAT(refusal(tensors), HasSubstr("lm_head.weight differs from the embedding although tie_word_embeddings is true"));
}

TEST(LoadWeights, AnUntiedModelNeedsItsHead) {
  json config = tiny_config();
  config["tie_word_embeddings"] = false;
  EXPECT_THAT(refusal(tensors_of(*tiny_model()), config), HasSubstr("lm_head.weight"));
}

TEST(DeepseekFolder, BiasesStayFloat32AndFoldersGoThroughUnchanged) {
  const auto saved = tiny_model(test::tiny_deepseek_config());
  for (const auto& weight : saved->weights())
    if (!weight.buffer) weight.view().copy_(weight.view().to(at::kBFloat16));
  const TemporaryFolder first, second;
  save_weights(*saved, first.path(), at::kBFloat16);
  const checkpoint::SafetensorsFile file(first / "model.safetensors");
  EXPECT_EQ(file.view("model.layers.1.mlp.gate.e_score_correction_bias").scalar_type(), at::kFloat);
  EXPECT_EQ(file.view("model.layers.1.mlp.gate.weight").scalar_type(), at::kBFloat16);
  EXPECT_TRUE(file.contains("model.layers.2.embed_tokens.weight"));  // published MTP modules hold copies
  const auto loaded = load_model(first.path());
  expect_equal_weights(*saved, *loaded);
  save_weights(*loaded, second.path(), WeightFormat{.dtype = at::kFloat, .like = first.path()});
  EXPECT_EQ(read_text_file(first / "model.safetensors"), read_text_file(second / "model.safetensors"));
}

TEST(DeepseekFolder, Fp8ProjectionsComeBackAndGoThroughUnchanged) {
  const auto saved = tiny_model(test::tiny_deepseek_config());
  const TemporaryFolder first, second;
  save_weights(*saved, first.path(), WeightFormat{.dtype = at::kBFloat16, .fp8_blocks = true});
  const checkpoint::SafetensorsFile file(first / "model.safetensors");
  EXPECT_EQ(file.view("model.layers.1.mlp.experts.3.up_proj.weight").scalar_type(), at::kFloat8_e4m3fn);
  EXPECT_EQ(file.view("model.layers.1.mlp.experts.3.up_proj.weight_scale_inv").sizes(), (std::vector<int64_t>{1, 1}));
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight", "model.layers.1.mlp.gate.weight", "model.layers.2.eh_proj.weight"})
    EXPECT_EQ(file.view(name).scalar_type(), at::kBFloat16) << name;
  const auto loaded = load_model(first.path());
  EXPECT_EQ(loaded->config().quantization.rows, 128);
  for (size_t i = 0; i < saved->weights().size(); ++i) {
    const at::Tensor a = saved->weights()[i].view(), b = loaded->weights()[i].view();
    EXPECT_LT((a - b).abs().max().item<double>(), 0.04 * a.abs().max().item<double>()) << saved->weights()[i].name;
  }
  save_weights(*loaded, second.path(), WeightFormat{.dtype = at::kBFloat16, .like = first.path()});
  EXPECT_EQ(read_text_file(first / "model.safetensors"), read_text_file(second / "model.safetensors"));
}

TEST(DeepseekFolder, ExpertsMayBeStackedAndMtpModulesMissing) {
  const auto saved = tiny_model(test::tiny_deepseek_config());
  std::vector<TensorToWrite> tensors;
  for (const auto& weight : saved->weights())
    if (weight.name.find(".experts.") == std::string::npos && weight.name.find("layers.2.") == std::string::npos)
      tensors.push_back(to_write(weight.name, weight.view()));
  for (const auto& stack : saved->stacks())
    if (stack.name.find("layers.2.") == std::string::npos) tensors.push_back(to_write(stack.name, stack.view()));
  const TemporaryFolder folder;
  checkpoint::write_safetensors_folder(folder.path(), "model", tensors);
  write_file_atomically(folder / "config.json", test::tiny_deepseek_config().dump());
  const auto loaded = load_model(folder.path());
  EXPECT_EQ(loaded->config().num_mtp_modules, 0);
  std::map<std::string, at::Tensor> expected;
  for (const auto& weight : saved->weights()) expected[weight.name] = weight.view();
  for (const auto& weight : loaded->weights()) EXPECT_TRUE(weight.view().equal(expected.at(weight.name))) << weight.name;
}

TEST(DeepseekFolder, AMissingExpertIsNamed) {
  auto tensors = tensors_of(*tiny_model(test::tiny_deepseek_config()));
  std::erase_if(tensors, [](const auto& tensor) { return tensor.name == "model.layers.1.mlp.experts.5.down_proj.weight"; });
  EXPECT_THAT(refusal(tensors, test::tiny_deepseek_config()), HasSubstr("lacks 1 tensors that config.json asks for: model.layers.1.mlp.experts.5.down_proj.weight"));
}

TEST(CopyCompanions, WritesTheTemplateBesideTheTokenizer) {
  const TemporaryFolder from, to;
  write_file_atomically(from / "tokenizer.json", "{}");
  write_file_atomically(from / "tokenizer_config.json", R"({"chat_template": "{{ messages }}"})");
  write_file_atomically(from / "notes.txt", "no companion");
  copy_companions(from.path(), to.path());
  EXPECT_EQ(read_text_file(to / "tokenizer.json"), "{}");
  EXPECT_EQ(read_text_file(to / "chat_template.jinja"), "{{ messages }}");
  EXPECT_FALSE(std::filesystem::exists(to / "notes.txt"));
}

}  // namespace
}  // namespace tessera::model
