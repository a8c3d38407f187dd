#include <gmock/gmock.h>

#include "core/error.h"
#include "recipes/recipe.h"
#include "tests/support/support.h"

namespace tessera::recipes {
namespace {

using test::message_of;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

const std::string kHead = "task: pipeline\noutput: r\nmodel: {path: m}\ndata: {train: [{path: a.jsonl}]}\ntrain: {steps: 5}\nrl: {rewards: [{name: exact}]}\n";
const std::string kStages = "stages:\n";  // line 7
std::string sft(const std::string& name, const std::string& more = "") { return "  - {name: " + name + ", task: sft" + more + "}\n"; }

std::string refusal(const std::string& stages, const std::string& head = kHead) {
  return message_of<ConfigError>([&] { (void)parse_pipeline(head + kStages + stages, "p.yaml"); });
}

TEST(PipelineRecipe, StagesOverlayTheCommonSectionsAndHandModelsOn) {
  const auto p = parse_pipeline(kHead + kStages + sft("a", ", train: {steps: 7}, optimizer: {lr: 1.0e-3}") + "  - {name: b, task: grpo, rl: {rollouts_per_prompt: 4}}\n" +
                                    "  - {name: c, task: reject, reject: {keep_per_prompt: 2}}\n" +
                                    sft("d", ", model_from: start, data: {train: [{path: '${stages.c.samples}'}]}") + sft("e"),
                                "p.yaml");
  ASSERT_EQ(p.stages.size(), 5u);
  EXPECT_EQ(p.stages[0].config.model.path, "m");
  EXPECT_EQ(p.stages[0].config.train.steps, 7);
  EXPECT_EQ(p.stages[0].config.output, "r/stages/a");
  EXPECT_FALSE(p.stages[0].rl.has_value());
  EXPECT_EQ(p.stages[1].config.model.path, "r/stages/a/exported");
  EXPECT_EQ(p.stages[1].config.train.steps, 5);
  EXPECT_EQ(p.stages[1].rl->rollouts_per_prompt, 4);
  EXPECT_EQ(p.stages[1].rl->rewards.at(0).name, "exact");
  EXPECT_THAT(p.stages[1].inputs, ElementsAre("a"));
  EXPECT_EQ(p.stages[2].sampling->model.path, "r/stages/b/exported");
  EXPECT_EQ(p.stages[2].selection.keep_per_prompt, 2);
  EXPECT_FALSE(p.stages[2].trains());
  EXPECT_EQ(p.stages[3].config.model.path, "m");
  EXPECT_EQ(p.stages[3].config.data.train.at(0).path, "r/stages/c/samples.jsonl");
  EXPECT_THAT(p.stages[3].inputs, ElementsAre("c"));
  EXPECT_EQ(p.stages[4].config.model.path, "r/stages/d/exported");
}

TEST(PipelineRecipe, ADistilledStudentLearnsFromTheTeachersSamples) {
  const auto p = parse_pipeline(kHead + kStages + sft("a") + "  - {name: b, task: distill, model: {path: s}, distill: {teacher: a, temperature: 0.5}}\n", "p.yaml");
  const auto& b = p.stages.at(1);
  EXPECT_EQ(b.config.model.path, "s");
  EXPECT_EQ(b.config.task, "sft");
  EXPECT_EQ(b.config.data.train.at(0).path, "r/stages/b/samples.jsonl");
  EXPECT_EQ(b.sampling->model.path, "r/stages/a/exported");
  EXPECT_EQ(b.sampling->prompts.at(0).path, "a.jsonl");
  EXPECT_EQ(b.sampling->rl.temperature, 0.5);
  EXPECT_EQ(b.keys.at("distill.temperature"), "0.5");
  EXPECT_EQ(b.keys.at("prompts[0].path"), "\"a.jsonl\"");
  EXPECT_EQ(b.run_keys.count("distill.temperature"), 0u);
}

TEST(PipelineRecipe, AStudentFromAConfigSharesTheTokenizer) {
  const auto p = parse_pipeline(kHead + kStages + sft("a") + "  - {name: b, task: distill, model: {config: {model_type: llama}}, distill: {teacher: a}}\n", "p.yaml");
  EXPECT_EQ(p.stages.at(1).config.model.tokenizer, "m");
}

TEST(PipelineRecipe, MistakesNameLineStageAndRemedy) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {sft("a") + sft("a"), "p.yaml:9: two stages have the name a (the first at p.yaml:8); rename one"},
      {sft("start"), "p.yaml:8: name: start stands for the model"},
      {sft("a/b"), "use letters, digits, - and _ only"},
      {"  - {task: sft}\n", "p.yaml:8: this stage has no name"},
      {"  - {name: a}\n", "p.yaml:8: stage a has no task; use one of distill, grpo, pretrain, reject, sft"},
      {"  - {name: a, task: rejct}\n", "did you mean 'reject'?"},
      {sft("cold-start") + sft("b", ", model_from: cold-strat"), "p.yaml:9: stages.b.model_from refers to a stage 'cold-strat' that does not exist; did you mean 'cold-start'?"},
      {sft("a", ", model_from: b") + sft("b", ", model_from: a"), "p.yaml:8: stages.a.model_from refers to stage b, which does not come before it"},
      {sft("a", ", model_from: a"), "refers to stage a, which does not come before it"},
      {sft("a", ", data: {train: [{path: '${stages.z.samples}'}]}"), "refers to a stage 'z' that does not exist"},
      {sft("a") + sft("b", ", data: {train: [{path: '${stages.a.samples}'}]}"), "stage a (task: sft) makes no samples"},
      {sft("a") + sft("b", ", data: {train: [{path: '${stages.a}'}]}"), "write ${stages.NAME.samples}"},
      {sft("a", ", optimizer: {lr: 0}"), "p.yaml:8: stages.a.optimizer.lr = 0 must be positive"},
      {sft("a", ", optimizer: {lrr: 1}"), "p.yaml:8: stages.a.optimizer.lrr is not a known key; did you mean 'lr'?"},
      {sft("a", ", rl: {rewards: [{name: exact}]}"), "rl belongs to task: grpo"},
      {"  - {name: a, task: reject, optimizer: {lr: 1.0e-3}}\n", "stages.a.optimizer is not a known key; known here: data,"},
      {"  - {name: a, task: reject, reject: {keep_per_prompt: 0}}\n", "stages.a.reject.keep_per_prompt = 0 must be at least 1"},
      {"  - {name: a, task: reject, reject: {mix: [{path: g, share: 1.5}]}}\n", "share = 1.5 must be between 0 and 1"},
      {"  - {name: a, task: reject}\n" + sft("b", ", model_from: a"), "(task: reject) trains no model"},
      {"  - {name: a, task: distill, distill: {teacher: start}}\n", "p.yaml:8: stages.a.model is missing: the student"},
      {"  - {name: a, task: distill, model: {path: s}}\n", "p.yaml:8: stages.a.distill is missing"},
      {"  - {name: a, task: distill, model: {path: s}, distill: {teacher: b}}\n", "distill.teacher (a stage's name or an existing folder) refers to a stage 'b'"},
      {"  - {name: a, task: distill, model: {path: s}, distill: {teacher: start, samples_per_prompt: 4}}\n", "set distill.temperature above 0"},
      {sft("a", ", model: {path: x}, model_from: start"), "exclude each other"},
  };
  for (const auto& [stages, message] : cases) EXPECT_THAT(refusal(stages), HasSubstr(message)) << stages;
}

TEST(PipelineRecipe, MissingPartsOfTheWhole) {
  EXPECT_THAT(message_of<ConfigError>([] { (void)parse_pipeline(kHead, "p.yaml"); }), HasSubstr("task = pipeline needs 'stages'"));
  EXPECT_THAT(refusal(sft("a"), "task: pipeline\n"), HasSubstr("model is missing: what the first stage starts with"));
  EXPECT_THAT(refusal(sft("a"), "task: pipeline\nmodel: {path: m}\ntrain: {steps: 1}\n"), AllOf(HasSubstr("p.yaml:5: stages.a."), HasSubstr("data.train is missing")));
  EXPECT_THAT(refusal("  - {name: a, task: grpo}\n", "task: pipeline\nmodel: {path: m}\ndata: {train: [{path: a}]}\ntrain: {steps: 1}\n"), HasSubstr("needs the section rl"));
  EXPECT_THAT(refusal(sft("a"), kHead + "report: {data: [{path: h}]}\n"), HasSubstr("p.yaml:7: report.rewards is missing"));
  EXPECT_THAT(refusal(sft("a"), kHead + "reject: {limit: 1}\n"), HasSubstr("p.yaml:7: reject belongs into a stage"));
  EXPECT_THAT(refusal(sft("a"), kHead + "optimiser: {lr: 1}\n"), HasSubstr("p.yaml:7: optimiser is not a known key; did you mean 'optimizer'?"));
}

TEST(PipelineRecipe, OtherCommandsAndTasksSayWhereItBelongs) {
  EXPECT_THAT(message_of<ConfigError>([] { (void)parse_recipe(kHead + kStages + sft("a"), "p.yaml"); }), HasSubstr("is run by 'tessera train'"));
  EXPECT_THAT(message_of<ConfigError>([] { (void)parse_recipe("task: reject\nmodel: {path: m}\ndata: {train: [{path: a}]}\n", "p.yaml"); }),
              HasSubstr("p.yaml:1: task = reject is a stage of task: pipeline"));
}

}  // namespace
}  // namespace tessera::recipes
