#include "recipes/recipe.h"

#include <torch/torch.h>

#include "core/error.h"
#include "core/file.h"
#include "recipes/config_node.h"
#include "tests/support/support.h"

namespace tessera::recipes {
namespace {

using test::message_of;
using test::TemporaryFolder;
using testing::HasSubstr;

const std::string kSmallest = "model: {path: m}\ndata: {train: [{path: a.jsonl}]}\ntrain: {steps: 5}\n";

/// The message with which `text` is refused.
std::string refusal(const std::string& text) {
  return message_of<ConfigError>([&] { (void)parse_recipe(text, "r.yaml"); });
}

TEST(Recipe, TheSmallestOneHasTheDocumentedDefaults) {
  const auto c = parse_recipe(kSmallest, "r.yaml").config;
  EXPECT_EQ(c.name, "run");
  EXPECT_EQ(c.task, "sft");
  EXPECT_EQ(c.seed, 0u);
  EXPECT_EQ(c.output, "runs/run");
  EXPECT_EQ(c.model.path, "m");
  EXPECT_FALSE(c.model.lora.has_value());
  EXPECT_EQ(c.data.train.at(0).weight, 1.0);
  EXPECT_EQ(c.data.sequence_length, 512);
  EXPECT_TRUE(c.data.packing);
  EXPECT_EQ(c.data.overlong, "error");
  EXPECT_EQ(c.optimizer.lr, 1e-4);
  EXPECT_THAT(c.optimizer.betas, testing::ElementsAre(0.9, 0.95));
  EXPECT_EQ(c.lr_schedule.name, "cosine");
  EXPECT_EQ(c.train.steps, 5);
  EXPECT_EQ(c.train.sequences_per_step, 8);
  EXPECT_EQ(c.checkpoint.keep, 2);
  EXPECT_EQ(c.communication.timeout_seconds, 600);
}

TEST(Recipe, PretrainingSplitsOverlongDocumentsUnlessToldOtherwise) {
  EXPECT_EQ(parse_recipe(kSmallest + "task: pretrain\n", "r").config.data.overlong, "split");
  EXPECT_EQ(parse_recipe("task: pretrain\nmodel: {path: m}\ndata: {train: [{path: a}], overlong: skip}\ntrain: {steps: 1}\n", "r").config.data.overlong,
            "skip");
}

TEST(Recipe, ASectionThatIsThereTurnsLoraOn) {
  const auto c = parse_recipe("model: {path: m, lora: {r: 4}}\ndata: {train: [{path: a}]}\ntrain: {steps: 1}\n", "r").config;
  ASSERT_TRUE(c.model.lora.has_value());
  EXPECT_EQ(c.model.lora->r, 4);
  EXPECT_EQ(c.model.lora->alpha, 32);
  EXPECT_THAT(c.model.lora->target_modules, testing::ElementsAre("q_proj", "k_proj", "v_proj", "o_proj"));
}

TEST(Recipe, AnUnknownKeyNamesLineAndNearestKey) {
  EXPECT_THAT(refusal(kSmallest + "optimizer:\n  lr: 1.0e-3\n  weight_decy: 0.1\n"),
              testing::AllOf(HasSubstr("r.yaml:6: optimizer.weight_decy is not a known key"), HasSubstr("did you mean 'weight_decay'?")));
  EXPECT_THAT(refusal(kSmallest + "trian: {steps: 1}\n"), testing::AllOf(HasSubstr("r.yaml:4: trian"), HasSubstr("'train'")));
  EXPECT_THAT(refusal(kSmallest + "log: {zzzzzz: 1}\n"), testing::AllOf(HasSubstr("log.zzzzzz"), HasSubstr("known here: communication, every, tensorboard")));
  EXPECT_THAT(refusal("model: {path: m}\ndata: {train: [{path: a}, {path: b, wieght: 2}]}\ntrain: {steps: 1}\n"),
              testing::AllOf(HasSubstr("r.yaml:2: data.train[1].wieght"), HasSubstr("'weight'")));
}

TEST(Recipe, ADuplicateKeyNamesBothLines) {
  EXPECT_THAT(refusal(kSmallest + "seed: 1\nname: x\nseed: 2\n"), HasSubstr("r.yaml:6: 'seed' is given twice (first at r.yaml:4)"));
}

TEST(Recipe, WrongTypesAreRefused) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"seed: -1", "seed = -1 must be a whole number, 0 or more"},
      {"seed: 1.5", "seed = 1.5 must be a whole number"},
      {"seed: \"7\"", "seed = 7 must be a whole number"},
      {"seed: 99999999999999999999", "must be a whole number"},
      {"optimizer: {lr: fast}", "optimizer.lr = fast must be a number"},
      {"optimizer: {lr: \"1.0e-4\"}", "optimizer.lr = 1.0e-4 must be a number"},
      {"optimizer: {lr: nan}", "optimizer.lr = nan must be a number"},
      {"optimizer: {lr: 1e999}", "must be a number"},
      {"optimizer: {betas: 0.9}", "optimizer.betas must be a list"},
      {"optimizer: {betas: [0.9, x]}", "optimizer.betas = x must be a list of numbers"},
      {"optimizer: 3", "optimizer must be a section"},
      {"log: {tensorboard: yes}", "log.tensorboard = yes must be true or false"},
      {"log: {every: [1]}", "log.every must be a single value"},
      {"log: {every: }", "'every' has no value"},
      {"name: {a: b}", "name must be a single value"},
      {"evaluate:", "'evaluate' has no value"},
  };
  for (const auto& [line, message] : cases) {
    const std::string text = refusal(kSmallest + line + "\n");
    EXPECT_THAT(text, HasSubstr(message)) << line;
    EXPECT_THAT(text, testing::StartsWith("r.yaml:4: ")) << line;
  }
}

TEST(Recipe, WrongValuesNameTheKeyTheLineAndTheRemedy) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"optimizer: {lr: 0}", "optimizer.lr = 0 must be positive, for instance"},
      {"optimizer: {name: sgd}", "optimizer.name = 'sgd' is not known; use one of adamw"},
      {"optimizer: {betas: [0.9]}", "optimizer.betas must be two numbers"},
      {"optimizer: {betas: [0.9, 1.0]}", "must be in [0, 1)"},
      {"lr_schedule: {name: cosin}", "did you mean 'cosine'?"},
      {"lr_schedule: {final_lr: 2}", "lr_schedule.final_lr = 2 is a share of lr"},
      {"name: !tiny", "the tag '!tiny' is not supported"},
      {"name: ''", "name is empty"},
      {"checkpoint: {keep: 0}", "checkpoint.keep = 0 must be at least 1"},
      {"communication: {timeout_seconds: 0}", "communication.timeout_seconds = 0 must be at least 1"},
      {"task: grpo", "task = grpo needs the section rl"},
      {"task: distill", "task = distill is a stage of task: pipeline"},
      {"task: sff", "task = 'sff' is not known"},
      {"precision: {compute: float16}", "precision.compute = 'float16' is not known; use one of float32, bfloat16"},
      {"optimizer: {moments: float16}", "optimizer.moments = 'float16' is not known; use one of float32, bfloat16"},
      {"optimizer: {moment_rounding: stochastic}", "set optimizer.moments to it, or leave the key out"},
      {"precision: {fp8: blockwize}", "precision.fp8 = 'blockwize' is not known; use one of none, blockwise, tensorwise, blockwise_coarse_gradients (did you mean 'blockwise'?)"},
      {"precision: {fp8_power_of_two_scales: true}", "precision.fp8_power_of_two_scales has no effect while precision.fp8 = none"},
      {"precision: {dispatch: float8}", "precision.dispatch = 'float8' is not known; use one of float32, bfloat16, fp8"},
      {"precision: {combine: fp8}", "precision.combine = 'fp8' is not known; use one of float32, bfloat16"},
      {"parallel: {stages_per_rank: 0}", "parallel.stages_per_rank = 0 must be at least 1"},
      {"moe: {bias_update_rate: -1}", "moe.bias_update_rate = -1 must be 0 or more"},
      {"moe: {z_los: 1}", "moe.z_los is not a known key; did you mean 'z_loss'?"},
      {"mtp: {loss_weight: .nan}", "mtp.loss_weight"},
      {"rl: {temperature: 1.0}", "rl belongs to task: grpo"},
      {"dpo: {beta: 0.1}", "dpo belongs to task: dpo"},
  };
  for (const auto& [line, message] : cases) {
    const std::string text = refusal(kSmallest + line + "\n");
    EXPECT_THAT(text, HasSubstr(message)) << line;
    EXPECT_THAT(text, testing::StartsWith("r.yaml:4: ")) << line;
  }
}

TEST(Recipe, ABaseInFp8NamesWhatItDoesNotGoWith) {
  const auto with = [](const std::string& base, const std::string& precision) {
    return "model: {path: m, lora: {base: " + base + "}}\ndata: {train: [{path: a}]}\ntrain: {steps: 1}\nprecision: {" + precision + "}\n";
  };
  EXPECT_THAT(refusal(with("fp16", "fp8: none")), testing::AllOf(testing::StartsWith("r.yaml:1: "),
                                                                 HasSubstr("model.lora.base = 'fp16' is not known; use one of float32, fp8")));
  EXPECT_THAT(refusal(with("fp8", "fp8: tensorwise")), HasSubstr("which precision.fp8 = tensorwise cannot multiply by"));
  EXPECT_THAT(refusal(with("fp8", "fp8: blockwise, fp8_power_of_two_scales: true")),
              HasSubstr("precision.fp8_power_of_two_scales must be false with model.lora.base = fp8"));
  EXPECT_THAT(refusal(with("fp8", "compute: bfloat16")), HasSubstr("precision.compute must be float32 with model.lora.base = fp8"));
  const auto c = parse_recipe(with("fp8", "fp8: blockwise, dispatch: fp8, combine: bfloat16"), "r.yaml").config;
  EXPECT_EQ(c.model.lora.value().base, "fp8");
  EXPECT_EQ(c.precision.wire().dispatch.kind, kernels::RowFormat::Kind::kFp8);
  EXPECT_EQ(c.precision.wire().combine.kind, kernels::RowFormat::Kind::kBfloat16);
  EXPECT_NO_THROW((void)parse_recipe(with("fp8", "dispatch: fp8, fp8_power_of_two_scales: true"), "r.yaml"));
}

TEST(Recipe, WhatIsMissingIsNamed) {
  EXPECT_THAT(refusal("model: {path: m}\ndata: {train: [{path: a}]}\n"), HasSubstr("train.steps is missing"));
  EXPECT_THAT(refusal("model: {path: m}\ntrain: {steps: 1}\n"), HasSubstr("data.train is missing"));
  EXPECT_THAT(refusal("data: {train: [{path: a}]}\ntrain: {steps: 1}\n"), HasSubstr("model needs either 'path'"));
  EXPECT_THAT(refusal("model: {path: m, config: {a: 1}}\ndata: {train: [{path: a}]}\ntrain: {steps: 1}\n"), HasSubstr("and not both"));
  EXPECT_THAT(refusal(""), HasSubstr("is empty"));
  EXPECT_THAT(refusal("- a\n- b\n"), HasSubstr("expected 'key: value' lines"));
  EXPECT_THAT(refusal("a: [1, 2\n"), HasSubstr("not valid YAML"));
}

TEST(Recipe, TheResolvedOneReadsBackToTheSameKeys) {
  const std::string text =
      "name: \"a: #b\"\nseed: 18446744073709551615\nmodel:\n"
      "  config: {model_type: llama, vocab_size: 32, tie: true, name: \"12\", eps: 1.0e-5, list: [1, 2.5, x]}\n"
      "  tokenizer: tok\ndata: {train: [{path: a.jsonl, weight: 0.1}, {path: \"b c.jsonl\"}], validation: [{path: v}], packing: false}\n"
      "optimizer: {lr: 3.3e-7, eps: 1e-8}\ntrain: {steps: 7}\n";
  const Recipe first = parse_recipe(text, "r.yaml");
  const Recipe second = parse_recipe(first.yaml, "resolved.yaml");
  EXPECT_EQ(first.keys, second.keys);
  EXPECT_EQ(first.yaml, second.yaml);
  EXPECT_EQ(second.config.name, "a: #b");
  EXPECT_EQ(second.config.seed, 18446744073709551615u);
  EXPECT_EQ(second.config.optimizer.lr, 3.3e-7);
  EXPECT_EQ(second.config.data.train.at(1).path, "b c.jsonl");
  EXPECT_EQ(second.config.model.config["name"], "12");
  EXPECT_EQ(second.config.model.config["tie"], true);
  EXPECT_EQ(first.keys.at("data.train[0].weight"), "0.1");
  EXPECT_EQ(first.keys.at("train.steps"), "7");
  EXPECT_EQ(first.keys.count("model.lora.r"), 0u);
}

class RecipeFiles : public testing::Test {
 protected:
  std::filesystem::path write(const std::string& name, const std::string& text) {
    write_file_atomically(folder_ / name, text);
    return folder_ / name;
  }
  TemporaryFolder folder_;
};

TEST_F(RecipeFiles, ARecipeIsMergedOverItsBase) {
  write("base.yaml", kSmallest + "optimizer: {lr: 1.0e-3, eps: 1.0e-6}\nname: base\n");
  const auto path = write("r.yaml", "base: base.yaml\nname: mine\noptimizer: {lr: 2.0e-3}\ndata: {train: [{path: other}]}\n");
  const auto c = load_recipe(path, {}).config;
  EXPECT_EQ(c.name, "mine");
  EXPECT_EQ(c.optimizer.lr, 2e-3);
  EXPECT_EQ(c.optimizer.eps, 1e-6);
  EXPECT_EQ(c.train.steps, 5);
  ASSERT_EQ(c.data.train.size(), 1u);  // lists are replaced
  EXPECT_EQ(c.data.train[0].path, "other");
}

TEST_F(RecipeFiles, ABaseOfABaseIsRefused) {
  write("a.yaml", kSmallest);
  write("b.yaml", "base: a.yaml\n");
  const auto path = write("c.yaml", "name: x\nbase: b.yaml\n");
  EXPECT_THAT(message_of<ConfigError>([&] { (void)load_recipe(path, {}); }),
              testing::AllOf(HasSubstr("c.yaml:2"), HasSubstr("b.yaml has a base of its own; one level only")));
  const auto missing = write("d.yaml", "base: nowhere.yaml\n");
  EXPECT_THAT(message_of<ConfigError>([&] { (void)load_recipe(missing, {}); }), HasSubstr("nowhere.yaml does not exist"));
}

TEST_F(RecipeFiles, OverridesComeLast) {
  const auto path = write("r.yaml", kSmallest + "optimizer: {lr: 1.0e-3}\n");
  const auto c = load_recipe(path, {"optimizer.lr=5.0e-4", "model.lora.r=8", "optimizer.betas=[0.8, 0.9]", "name=x", "train.steps=9",
                                    "data.train=[{path: b, weight: 2}]", "train.steps=11"}).config;
  EXPECT_EQ(c.optimizer.lr, 5e-4);
  EXPECT_THAT(c.optimizer.betas, testing::ElementsAre(0.8, 0.9));
  EXPECT_EQ(c.model.lora.value().r, 8);
  EXPECT_EQ(c.name, "x");
  EXPECT_EQ(c.train.steps, 11);
  EXPECT_EQ(c.data.train.at(0).path, "b");
  EXPECT_EQ(c.data.train.at(0).weight, 2);
}

TEST_F(RecipeFiles, BadOverridesAreRefused) {
  const auto path = write("r.yaml", kSmallest);
  const auto with = [&](const std::string& text) {
    return message_of<ConfigError>([&] { (void)load_recipe(path, {text}); });
  };
  EXPECT_THAT(with("steps"), HasSubstr("'steps' is no override: write key=value"));
  EXPECT_THAT(with("=5"), HasSubstr("is no override"));
  EXPECT_THAT(with("train.stpes=5"), testing::AllOf(HasSubstr("command line 'train.stpes=5'"), HasSubstr("did you mean 'steps'?")));
  EXPECT_THAT(with("optimizer.lr=-1"), testing::AllOf(HasSubstr("command line 'optimizer.lr=-1'"), HasSubstr("must be positive")));
  EXPECT_THAT(with("train.steps="), HasSubstr("has no value"));
  EXPECT_THAT(with("base=x.yaml"), HasSubstr("base is not a known key"));
}

TEST_F(RecipeFiles, AMissingFileIsNamed) {
  EXPECT_THAT(message_of<ConfigError>([&] { (void)load_recipe(folder_ / "none.yaml", {}); }), HasSubstr("none.yaml does not exist"));
}

TEST_F(RecipeFiles, TheShippedRecipesAreValid) {
  const auto root = std::filesystem::path(TESSERA_SOURCE_DIR) / "recipes";
  int count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    if (entry.path().extension() != ".yaml") continue;
    EXPECT_NO_THROW((void)load_run_or_pipeline(entry.path(), {})) << entry.path();
    ++count;
  }
  EXPECT_GE(count, 3);
}

TEST(Documentation, ListsEveryKey) {
  const std::string page = read_text_file(std::filesystem::path(TESSERA_SOURCE_DIR) / "docs/architecture.md");
  const auto keys = parse_recipe("model: {path: m, lora: {}}\ndata: {train: [{path: a}], validation: [{path: b}]}\ntrain: {steps: 1}\n", "r").keys;
  EXPECT_GT(keys.size(), 35u);
  for (const auto& entry : keys) {
    std::string key = entry.first;
    if (key.ends_with("].path") || key.starts_with("data.validation")) continue;  // described with their list
    if (const size_t index = key.find("[0]"); index != std::string::npos) key.erase(index + 1, 1);
    EXPECT_THAT(page, HasSubstr("`" + key + "`"));
  }
}

}  // namespace
}  // namespace tessera::recipes
