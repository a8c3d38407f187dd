#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "rl/rewards/answer.h"
#include "test_support.h"

namespace tessera::rl {
namespace {

using testing::HasSubstr;

TEST(Answer, ThinkingIsSplitOffAtTheLastMark) {
  const auto parts = split_thinking("<think>a</think>b</think>c", false);
  EXPECT_EQ(parts.thinking, "a</think>b");
  EXPECT_EQ(parts.answer, "c");
  EXPECT_EQ(split_thinking("a</think>c", true).thinking, "a");
  EXPECT_EQ(split_thinking("no marks", false).answer, "no marks");
  EXPECT_FALSE(split_thinking("no marks", false).has_thinking);
  EXPECT_EQ(split_thinking("no marks", true).answer, "");
  EXPECT_EQ(split_thinking("no marks", true).thinking, "no marks");
  EXPECT_EQ(split_thinking("<think>open", false).answer, "");
  EXPECT_EQ(split_thinking("a</think>b<think>", false).answer, "b<think>");
}

TEST(Answer, BoxesNest) {
  EXPECT_EQ(last_boxed("\\boxed{a{b}{c{d}}} x"), "a{b}{c{d}}");
  EXPECT_EQ(last_boxed("\\boxed{1} \\boxed{2"), "1");
  EXPECT_EQ(last_boxed("\\boxed {3}"), "3");
  EXPECT_EQ(last_boxed("\\boxed{a\\}b}"), "a\\}b");
  EXPECT_EQ(last_boxed("\\boxed{\\text{a}} {b}"), "\\text{a}");
  EXPECT_EQ(last_boxed("{x}"), std::nullopt);
  EXPECT_EQ(last_boxed("\\boxed"), std::nullopt);
}

TEST(Answer, TheLastFencedBlock) {
  EXPECT_EQ(last_fenced("a\n```python\nx = 1\n```\nb\n```\ny\n```\nc"), "y\n");
  EXPECT_EQ(last_fenced("```\nopen"), "open");
  EXPECT_EQ(last_fenced("none `here`"), std::nullopt);
  EXPECT_EQ(last_fenced("  ```py\n  z\n  ```"), "  z\n");
  EXPECT_EQ(last_fenced("```"), "");
}

TEST(ExactReward, ComparesAsTheTasksDo) {
  const nlohmann::json sample = {{"answer", "1250 mg"}};
  EXPECT_EQ(score_one({.name = "exact"}, sample, "<think>x</think>So.\nAnswer: 1,250 MG").value, 1);
  EXPECT_EQ(
      score_one({.name = "exact"}, sample, "<think>Answer: 1250 mg</think>I do not know").value, 0);
  EXPECT_EQ(score_one({.name = "exact"}, sample, "Answer: 1251 mg").value, 0);
}

TEST(ChoiceReward, FindsTheLetter) {
  const auto right = [](const char* completion) {
    return score_one({.name = "choice"}, {{"answer", "B"}}, completion).value;
  };
  for (const char* good :
       {"B", "(B)", "b", "**B**", "B.", "The answer is B.", "the answer is (B)", "Answer: B) Paris",
        "\\boxed{B}", "\\boxed{\\text{(B)}}", "<answer>B</answer>",
        "It cannot be A or C.\nThe answer is B", "B) vitamin C", "[B]", "I think A is wrong.\nB",
        "A dog is a mammal, so the answer is: B", "Answer: A\nNo. Answer: B"})
    EXPECT_EQ(right(good), 1) << good;
  for (const char* bad :
       {"A", "", "A or B", "The answer is A or B", "\\boxed{A, B}", "Bob", "The answer is a dog",
        "B is wrong.\nThe answer is C", "K", "<think>B</think>", "none of them"})
    EXPECT_EQ(right(bad), 0) << bad;
}

TEST(ChoiceReward, ReferencesMayBeInBracketsAndMustBeLetters) {
  EXPECT_EQ(score_one({.name = "choice"}, {{"answer", "(J)"}}, "J").value, 1);
  EXPECT_EQ(score_one({.name = "choice"}, {{"answer", "a"}}, "A").value, 1);
  EXPECT_THAT(score_one({.name = "choice"}, {{"answer", "Paris"}}, "A").error,
              HasSubstr("names no letter of A..J: Paris"));
}

TEST(SetReward, OrderAndDuplicatesDoNotMatter) {
  const auto right = [](const nlohmann::json& answer, const char* completion) {
    return score_one({.name = "set"}, {{"answer", answer}}, completion).value;
  };
  EXPECT_EQ(right("red, green, blue", "Blue, red and green"), 1);
  EXPECT_EQ(right("red, green, blue", "blue, red, green, red"), 1);
  EXPECT_EQ(right("red, green, blue", "blue, red"), 0);
  EXPECT_EQ(right("red, green", "red, green, blue"), 0);
  EXPECT_EQ(right("1; 2.5", "\\boxed{2.50; 1}"), 1);
  EXPECT_EQ(right("1; 2", "\\boxed{1; 3}"), 0);
  EXPECT_EQ(right(nlohmann::json{"x", "y"}, "<answer>[\"y\", \"x\"]</answer>"), 1);
  EXPECT_EQ(right("{1, 2, 3}", "\\boxed{\\{3, 2, 1\\}}"), 1);
  EXPECT_EQ(right("a; b, c", "b, c; a"), 1) << "commas inside of elements";
  EXPECT_EQ(right("a, b", "text\nAnswer: b, a"), 1);
  EXPECT_EQ(right("a, b", "b, a\nnone"), 0);
  EXPECT_TRUE(score_one({.name = "set"}, {{"answer", " , "}}, "a").failed);
}

TEST(JsonReward, ComparesStructures) {
  const nlohmann::json sample = {{"answer", {{"a", 1}, {"b", {1.5, "x", nullptr}}}}};
  const auto right = [&](const std::string& completion) {
    return score_one({.name = "json"}, sample, completion).value;
  };
  EXPECT_EQ(right(R"({"b": [1.5, "x", null], "a": 1})"), 1);
  EXPECT_EQ(right("Here:\n```json\n{\"a\": 1.0, \"b\": [1.50000001, \"x\", null]}\n```\ndone"), 1);
  EXPECT_EQ(right(R"(<answer>{"a":1,"b":[1.5,"x",null]}</answer>)"), 1);
  EXPECT_EQ(right(R"({"a": 1, "b": [1.6, "x", null]})"), 0);
  EXPECT_EQ(right(R"({"a": 1, "b": ["x", 1.5, null]})"), 0) << "arrays have an order";
  EXPECT_EQ(right(R"({"a": 1, "b": [1.5, "x"]})"), 0);
  EXPECT_EQ(right(R"({"a": 1, "b": [1.5, "x", null], "c": 2})"), 0);
  EXPECT_EQ(right(R"({"a": "1", "b": [1.5, "x", null]})"), 0);
  EXPECT_EQ(right("{broken"), 0);
  EXPECT_EQ(right(std::string(100000, '[')), 0) << "nesting must not exhaust the stack";
  EXPECT_EQ(score_one({.name = "json"}, {{"answer", "{\"a\": [1]}"}}, "{\"a\":[1]}").value, 1)
      << "JSON in a string";
}

TEST(RegexReward, SearchesTheAnswer) {
  const RewardConfig config{.name = "regex", .pattern = R"(\b[A-Z]{3}-\d+\b$)"};
  EXPECT_EQ(score_one(config, {}, "it is CAR-12").value, 1);
  EXPECT_EQ(score_one(config, {}, "it is CAR-12 or so").value, 0);
  EXPECT_EQ(score_one(config, {}, "<think>CAR-12</think>").value, 0);
  EXPECT_EQ(score_one(config, {}, "\xff\xfe CAR-12").value, 1) << "text that is no UTF-8";
  EXPECT_EQ(score_one({.name = "regex"}, {{"answer", "^a+$"}}, "aaa").value, 1)
      << "the sample's own pattern";
  EXPECT_EQ(score_one({.name = "regex"}, {{"answer", "^a+$"}}, "b").value, 0);
  EXPECT_THAT(score_one({.name = "regex"}, {{"answer", "("}}, "b").error,
              HasSubstr("does not compile"));
  EXPECT_THAT([] { (void)make_reward({.name = "regex", .pattern = "("}); },
              testing::ThrowsMessage<std::exception>(
                  HasSubstr("rl.rewards: regex: the pattern '(' does not compile")));
}

TEST(RegexReward, ACatastrophicPatternFailsInsteadOfHanging) {
  const auto start = std::chrono::steady_clock::now();
  const auto result = score_one({.name = "regex", .pattern = "^(([a-z])+.)+[A-Z]([a-z])+$"}, {},
                                std::string(5000, 'a'));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  EXPECT_TRUE(result.failed);
  EXPECT_THAT(result.error, HasSubstr("limit"));
}

}  // namespace
}  // namespace tessera::rl
