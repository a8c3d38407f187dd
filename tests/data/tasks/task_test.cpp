#include "data/tasks/task.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "core/hash.h"
#include "tests/data/tasks/solvers.h"

namespace tessera::data {
namespace {

std::vector<std::string> task_names() {
  std::vector<std::string> names;
  for (const Task& task : tasks()) names.push_back(task.name);
  return names;
}

/// A task and a difficulty.
class EveryGrade : public testing::TestWithParam<std::tuple<std::string, int>> {
 protected:
  [[nodiscard]] const Task& task() const { return find_task(std::get<0>(GetParam())); }
  [[nodiscard]] int64_t difficulty() const { return std::get<1>(GetParam()); }
  [[nodiscard]] std::vector<Problem> problems(int64_t count, uint64_t seed, Split split) const {
    return generate_problems(task(), count, seed, split, difficulty());
  }
};

TEST_P(EveryGrade, IsDeterministicAndFollowsTheSeed) {
  const SynthesisConfig config{.task = task().name, .count = 50, .seed = 7, .difficulty = difficulty()};
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

TEST_P(EveryGrade, KeepsTrainAndHeldOutApart) {
  std::set<std::string> train, prompts;
  for (const Problem& p : problems(5000, 1, Split::kTrain)) {
    train.insert(p.parameters);
    prompts.insert(p.prompt);
  }
  for (const Problem& p : problems(1000, 1, Split::kHeldOut)) {
    EXPECT_EQ(train.count(p.parameters), 0u) << p.prompt;
    EXPECT_EQ(prompts.count(p.prompt), 0u) << p.prompt;
  }
}

TEST_P(EveryGrade, NoAnswerIsFrequentAndPromptsAreDistinct) {
  for (const Split split : {Split::kTrain, Split::kHeldOut}) {
    std::map<std::string, int> answers;
    std::set<std::string> prompts, kinds;
    for (const Problem& p : problems(1000, 3, split)) {
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

TEST_P(EveryGrade, ResponsesAreShortAndEndInTheAnswer) {
  constexpr std::array<size_t, 6> kMaxSize = {900, 260, 260, 450, 650, 900};
  for (const Problem& p : problems(1000, 5, Split::kTrain)) {
    const size_t grade = task().ungraded && difficulty() == 0 ? 1 : static_cast<size_t>(difficulty());
    EXPECT_LE(p.prompt.size() + p.response().size(), kMaxSize[grade]) << p.prompt;
    EXPECT_EQ(p.working.find('\n'), std::string::npos);
    EXPECT_FALSE(answer_is_correct(p.working, p.answer)) << p.working;
    for (const Style style : {Style::kWorking, Style::kThink, Style::kAnswer}) {
      const std::string response = p.response(style);
      EXPECT_TRUE(response.ends_with("Answer: " + p.answer));
      EXPECT_EQ(extract_answer(response), p.answer);
      EXPECT_TRUE(answer_is_correct(response, p.answer)) << response;
    }
  }
}

TEST_P(EveryGrade, LinesHoldWhatTrainingAndEvaluationRead) {
  for (const int64_t shots : {0, 2}) {
    for (const char* style : {"working", "think", "answer"}) {
      const SynthesisConfig config{.task = task().name,
                                   .count = 20,
                                   .seed = 1,
                                   .split = Split::kHeldOut,
                                   .difficulty = difficulty(),
                                   .style = parse_style(style),
                                   .few_shot = shots};
      for (const std::string& line : synthesize(config)) {
        const auto json = nlohmann::json::parse(line);
        const auto& messages = json.at("messages");
        ASSERT_EQ(messages.size(), 2 + 2 * static_cast<size_t>(shots));
        EXPECT_EQ(messages.back().at("role"), "assistant");
        const std::string user = messages[messages.size() - 2].at("content");
        EXPECT_TRUE(user.ends_with(json.at("prompt").get<std::string>()));
        EXPECT_TRUE(
            answer_is_correct(messages.back().at("content").get<std::string>(), json.at("answer").get<std::string>()));
        EXPECT_EQ(line.find('\n'), std::string::npos);
        EXPECT_EQ(json.contains("difficulty"), !task().ungraded || difficulty() > 0);
        EXPECT_EQ(json.contains("reward"), json.contains("difficulty"));
        if (!json.contains("difficulty")) continue;
        const int64_t grade = json.at("difficulty");
        EXPECT_TRUE(difficulty() == 0 ? grade >= 1 && grade <= kMaxDifficulty : grade == difficulty());
        EXPECT_EQ(json.at("reward"), find_kind(task(), json.at("kind").get<std::string>()).reward);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tasks, EveryGrade, testing::Combine(testing::ValuesIn(task_names()), testing::Range(0, 6)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + std::to_string(std::get<1>(info.param));
                         });

/// A task and one of its kinds.
class EveryKind : public testing::TestWithParam<std::pair<std::string, std::string>> {
 protected:
  [[nodiscard]] const Task& task() const { return find_task(GetParam().first); }
  [[nodiscard]] const Kind& kind() const { return find_kind(task(), GetParam().second); }
};

std::vector<std::pair<std::string, std::string>> all_kinds() {
  std::vector<std::pair<std::string, std::string>> all;
  for (const Task& task : tasks()) {
    for (const Kind& kind : task.kinds) all.emplace_back(task.name, kind.name);
  }
  return all;
}

TEST_P(EveryKind, IsSolvedFromItsPromptAlone) {
  for (int64_t difficulty = 0; difficulty <= kMaxDifficulty; ++difficulty) {
    for (const Split split : {Split::kTrain, Split::kHeldOut}) {
      for (const Problem& p : generate_problems(task(), 100, 21, split, difficulty, &kind())) {
        ASSERT_EQ(solvers::solve(task().name, p.kind, p.prompt), p.answer) << p.prompt << "\n" << p.working;
      }
    }
  }
}

TEST_P(EveryKind, IsDrawnAlone) {
  const auto lines = synthesize({.task = task().name, .count = 30, .difficulty = 3, .kind = kind().name});
  for (const std::string& line : lines) EXPECT_EQ(nlohmann::json::parse(line).at("kind"), kind().name);
}

TEST_P(EveryKind, HasNoAnswerThatIsRightForAFifth) {
  for (int64_t difficulty = 0; difficulty <= kMaxDifficulty; ++difficulty) {
    std::map<std::string, int> answers;
    for (const Problem& p : generate_problems(task(), 500, 9, Split::kTrain, difficulty, &kind())) ++answers[p.answer];
    for (const auto& [answer, count] : answers) EXPECT_LE(count, 100) << difficulty << ": " << answer;
  }
}

INSTANTIATE_TEST_SUITE_P(Tasks, EveryKind, testing::ValuesIn(all_kinds()),
                         [](const auto& info) { return info.param.first + "_" + info.param.second; });

TEST(Tasks, WithoutADifficultyHealthcareAndFinanceAreWhatTheyWere) {
  const auto hash = [](const std::string& task, Split split, int64_t shots) {
    std::string text;
    for (const std::string& line :
         synthesize({.task = task, .count = 1000, .seed = 3, .split = split, .few_shot = shots}))
      text += line + "\n";
    return hash_bytes(text);
  };
  EXPECT_EQ(hash("healthcare", Split::kTrain, 0), "fb311f704467198f884db649649eec21");
  EXPECT_EQ(hash("healthcare", Split::kTrain, 2), "2f1b88a3c79227f08d87fb19f87dcdb0");
  EXPECT_EQ(hash("healthcare", Split::kHeldOut, 0), "04598426cad1c3abed41243d1770b41e");
  EXPECT_EQ(hash("healthcare", Split::kHeldOut, 2), "ca7145db1df5a87013954c7d79c15068");
  EXPECT_EQ(hash("finance", Split::kTrain, 0), "48531ee602808e2b43acce6f147b30a8");
  EXPECT_EQ(hash("finance", Split::kTrain, 2), "b844c5d41e24b310238dc1bf1a6da12c");
  EXPECT_EQ(hash("finance", Split::kHeldOut, 0), "1567641546160ba3203ce7cb1d44663f");
  EXPECT_EQ(hash("finance", Split::kHeldOut, 2), "a08d7d22b6a97d1b855984f9c21a50e6");
}

TEST(Tasks, FirstGradeOfHealthcareAndFinanceIsWhatTheyWere) {
  for (const char* name : {"healthcare", "finance"}) {
    const auto ungraded = generate_problems(find_task(name), 500, 3, Split::kTrain),
               first = generate_problems(find_task(name), 500, 3, Split::kTrain, 1);
    for (size_t i = 0; i < ungraded.size(); ++i) EXPECT_EQ(ungraded[i].prompt, first[i].prompt);
  }
}

TEST(Tasks, GrowHarderWithDifficulty) {
  for (const Task& task : tasks()) {
    size_t before = 0;
    for (int64_t difficulty = 1; difficulty <= kMaxDifficulty; ++difficulty) {
      size_t size = 0;
      for (const Problem& p : generate_problems(task, 500, 3, Split::kTrain, difficulty)) size += p.working.size();
      EXPECT_GT(size, before) << task.name << ' ' << difficulty;
      before = size;
    }
  }
}

TEST(Tasks, ThinkInTheirTags) {
  Problem problem;
  problem.working = "1 + 2 = 3";
  problem.answer = "3 kg";
  EXPECT_EQ(problem.response(), "1 + 2 = 3\nAnswer: 3 kg");
  EXPECT_EQ(problem.response(Style::kThink), "<think>\n1 + 2 = 3\n</think>\n\nAnswer: 3 kg");
  EXPECT_EQ(problem.response(Style::kAnswer), "Answer: 3 kg");
}

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
  EXPECT_THAT([] { (void)parse_style("thinking"); },
              testing::ThrowsMessage<ConfigError>("--style thinking is unknown; use working, think or answer"));
  EXPECT_THAT([] { (void)synthesize({.task = "logistics", .kind = "palets"}); },
              testing::ThrowsMessage<ConfigError>(
                  "--kind palets is no kind of logistics; did you mean pallets?; use route, pallets, parts"));
  for (const int64_t difficulty : {-1, 6}) {
    EXPECT_THAT([=] { (void)synthesize({.task = "finance", .difficulty = difficulty}); },
                testing::ThrowsMessage<ConfigError>(testing::HasSubstr("must lie in 1..5, or be 0 for a mixture")));
  }
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

TEST(AnswerChecker, PassesOverThoughts) {
  EXPECT_EQ(extract_answer("<think>\n\\boxed{3}? Answer: 3\n</think>\n\nAnswer: 4"), "4");
  EXPECT_EQ(extract_answer("Answer: 3</think>It is\n\\boxed{4}"), "4");  // the template opened the thoughts
  EXPECT_EQ(extract_answer("<think>a</think><think>Answer: 3</think>5"), "5");
  EXPECT_EQ(extract_answer("<think>Answer: 3"), "");
  EXPECT_EQ(extract_answer("<think>Answer: 3</think>"), "");
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
