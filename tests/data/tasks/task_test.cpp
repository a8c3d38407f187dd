#include "data/tasks/task.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"

namespace tessera::data {
namespace {

class EveryTask : public testing::TestWithParam<std::string> {};

TEST_P(EveryTask, IsDeterministicAndFollowsTheSeed) {
  const SynthesisConfig config{.task = GetParam(), .count = 50, .seed = 7};
  const auto lines = synthesize(config);
  EXPECT_EQ(lines, synthesize(config));
  SynthesisConfig other = config;
  other.seed = 8;
  EXPECT_NE(lines, synthesize(other));
  SynthesisConfig longer = config;
  longer.count = 80;
  const auto more = synthesize(longer);
  EXPECT_TRUE(std::equal(lines.begin(), lines.end(), more.begin()));
}

TEST_P(EveryTask, KeepsTrainAndHeldOutApart) {
  const Task& task = find_task(GetParam());
  std::set<std::string> train;
  for (const Problem& p : generate_problems(task, 5000, 1, Split::kTrain)) train.insert(p.parameters);
  for (const Problem& p : generate_problems(task, 1000, 1, Split::kHeldOut)) {
    EXPECT_EQ(train.count(p.parameters), 0u) << p.prompt;
  }
}

TEST_P(EveryTask, NoAnswerIsFrequentAndPromptsAreDistinct) {
  for (const Split split : {Split::kTrain, Split::kHeldOut}) {
    const auto problems = generate_problems(find_task(GetParam()), 1000, 3, split);
    std::map<std::string, int> answers;
    std::set<std::string> prompts, kinds;
    for (const Problem& p : problems) {
      ++answers[p.answer];
      prompts.insert(p.prompt);
      kinds.insert(p.kind);
    }
    for (const auto& [answer, count] : answers) EXPECT_LE(count, 50) << answer;  // 5 %
    EXPECT_GE(answers.size(), 72u);
    EXPECT_GE(prompts.size(), 980u);
    EXPECT_EQ(kinds.size(), 3u);
  }
}

TEST_P(EveryTask, ResponsesAreShortAndEndInTheAnswer) {
  for (const Problem& p : generate_problems(find_task(GetParam()), 1000, 5, Split::kTrain)) {
    EXPECT_LE(p.prompt.size() + p.response().size(), 260u) << p.prompt;
    EXPECT_TRUE(p.response().ends_with("Answer: " + p.answer));
    EXPECT_TRUE(answer_is_correct(p.response(), p.answer)) << p.response();
    EXPECT_FALSE(answer_is_correct(p.working, p.answer)) << p.working;
  }
}

TEST_P(EveryTask, LinesHoldWhatTrainingAndEvaluationRead) {
  for (const int64_t shots : {0, 2}) {
    for (const std::string& line : synthesize({.task = GetParam(), .count = 20, .seed = 1, .split = Split::kHeldOut,
                                               .few_shot = shots})) {
      const auto json = nlohmann::json::parse(line);
      const auto& messages = json.at("messages");
      ASSERT_EQ(messages.size(), 2 + 2 * static_cast<size_t>(shots));
      EXPECT_EQ(messages.back().at("role"), "assistant");
      const std::string user = messages[messages.size() - 2].at("content");
      EXPECT_TRUE(user.ends_with(json.at("prompt").get<std::string>()));
      EXPECT_TRUE(answer_is_correct(messages.back().at("content").get<std::string>(), json.at("answer").get<std::string>()));
      EXPECT_EQ(line.find('\n'), std::string::npos);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tasks, EveryTask, testing::Values("healthcare", "finance"),
                         [](const auto& info) { return info.param; });

TEST(Tasks, AreAppliedByTheirOwnRules) {
  for (const Problem& p : generate_problems(find_task("finance"), 2000, 5, Split::kTrain)) {
    if (p.kind == "due" && p.prompt.starts_with("Invoice of 28 February, payable within 7")) {
      EXPECT_EQ(p.answer, "7 March");
    }
    if (p.kind == "gross" && p.prompt == "Net 200 EUR, VAT 20%. Gross amount?") {
      EXPECT_EQ(p.answer, "240 EUR");
    }
  }
}

TEST(Tasks, UnknownNamesAreRefused) {
  EXPECT_THAT([] { (void)find_task("helthcare"); },
              testing::ThrowsMessage<ConfigError>(testing::HasSubstr("did you mean healthcare?")));
  EXPECT_THAT([] { (void)parse_split("test"); },
              testing::ThrowsMessage<ConfigError>("--split test is unknown; use train or heldout"));
  EXPECT_THROW((void)synthesize({.task = "finance", .count = 0}), ConfigError);
  EXPECT_THROW((void)synthesize({.task = "finance", .few_shot = -1}), ConfigError);
}

TEST(AnswerChecker, FindsTheAnswer) {
  EXPECT_EQ(extract_answer("so \\boxed{12} or\n<answer>13</answer>"), "12");
  EXPECT_EQ(extract_answer("a <answer> 13 </answer> b"), "13");
  EXPECT_EQ(extract_answer("Answer: 1\nAnswer: CAR-A1.\nmore"), "CAR-A1");
  EXPECT_EQ(extract_answer("thinking\n**7 March**"), "7 March");
  EXPECT_EQ(extract_answer("  "), "");
  EXPECT_EQ(extract_answer("Answer:"), "");
}

TEST(AnswerChecker, AcceptsEqualAnswersAndRefusesOthers) {
  EXPECT_TRUE(answer_is_correct("Answer: 1,250 mg", "1250 mg"));
  EXPECT_TRUE(answer_is_correct("Answer: 120.0 MG", "120 mg"));
  EXPECT_TRUE(answer_is_correct("x\nAnswer:car-a1", "CAR-A1"));
  EXPECT_FALSE(answer_is_correct("Answer: 120 g", "120 mg"));
  EXPECT_FALSE(answer_is_correct("Answer: 121 mg", "120 mg"));
  EXPECT_FALSE(answer_is_correct("Answer: CAR-A1 or CAR-A2", "CAR-A1"));
  EXPECT_FALSE(answer_is_correct("Answer: 1,5", "15"));
  EXPECT_FALSE(answer_is_correct("", "120 mg"));
  EXPECT_FALSE(answer_is_correct("Answer: nan", "120 mg"));
}

}  // namespace
}  // namespace tessera::data
