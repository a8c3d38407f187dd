#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "core/error.h"
#include "test_support.h"

namespace tessera::rl {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class FakeReward final : public Reward {
 public:
  explicit FakeReward(std::function<std::vector<RewardResult>(size_t)> give)
      : give_(std::move(give)) {}
  std::vector<RewardResult> score(const std::vector<RewardInput>& inputs) override {
    return give_(inputs.size());
  }

 private:
  std::function<std::vector<RewardResult>(size_t)> give_;
};

RewardSet set_of(std::vector<RewardConfig> configs,
                 std::vector<std::function<std::vector<RewardResult>(size_t)>> gives) {
  std::vector<std::unique_ptr<Reward>> rewards;
  for (auto& give : gives) rewards.push_back(std::make_unique<FakeReward>(std::move(give)));
  return RewardSet(std::move(configs), std::move(rewards));
}

std::vector<RewardInput> inputs_of(const nlohmann::json& sample, size_t count) {
  return std::vector<RewardInput>(count,
                                  RewardInput{.sample = &sample, .prompt = "", .completion = "42"});
}

TEST(RewardSet, SumsWithWeightsAndKeepsThePartsWithout) {
  RewardSet set({{.name = "numeric", .weight = 2},
                 {.name = "length", .weight = 0.5, .target_length = 0, .max_length = 10}});
  const nlohmann::json sample = {{"answer", "42"}};
  const RewardInput right{.sample = &sample, .prompt = "", .completion = "42", .tokens = 5};
  const RewardInput wrong{.sample = &sample, .prompt = "", .completion = "41", .tokens = 10};
  const auto totals = set.score({right, wrong});
  EXPECT_THAT(totals[0].parts, ElementsAre(1, -0.5));
  EXPECT_DOUBLE_EQ(totals[0].total, 2 - 0.25);
  EXPECT_THAT(totals[1].parts, ElementsAre(0, -1));
  EXPECT_DOUBLE_EQ(totals[1].total, -0.5);
  EXPECT_FALSE(totals[0].failed);
  EXPECT_THAT(set.names(), ElementsAre("numeric", "length"));
  EXPECT_EQ(set.failures()[0].count, 0);
  EXPECT_TRUE(set.score({}).empty());
}

TEST(RewardSet, ContainsWhateverARewardDoes) {
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinity = std::numeric_limits<double>::infinity();
  auto set = set_of(
      {{.name = "throws"},
       {.name = "odd"},
       {.name = "short"},
       {.name = "values"},
       {.name = "good", .weight = 3}},
      {[](size_t) -> std::vector<RewardResult> { throw std::runtime_error("no luck"); },
       [](size_t) -> std::vector<RewardResult> { throw 5; },
       [](size_t count) { return std::vector<RewardResult>(count - 1, RewardResult{.value = 1}); },
       [&](size_t) {
         return std::vector<RewardResult>{{.value = nan}, {.value = infinity}, {.value = 0.5}};
       },
       [](size_t count) { return std::vector<RewardResult>(count, RewardResult{.value = 1}); }});
  const nlohmann::json sample;
  const auto totals = set.score(inputs_of(sample, 3));
  for (const auto& total : totals) EXPECT_TRUE(total.failed);
  EXPECT_THAT(totals[0].parts, ElementsAre(0, 0, 0, 0, 1));
  EXPECT_DOUBLE_EQ(totals[0].total, 3);
  EXPECT_DOUBLE_EQ(totals[2].total, 3.5);
  ASSERT_EQ(set.failures().size(), 5u);
  EXPECT_EQ(set.failures()[0].count, 3);
  EXPECT_EQ(set.failures()[0].last_error, "no luck");
  EXPECT_EQ(set.failures()[1].count, 3);
  EXPECT_THAT(set.failures()[2].last_error, HasSubstr("gave 2 values for 3 samples"));
  EXPECT_EQ(set.failures()[3].count, 2);
  EXPECT_THAT(set.failures()[3].last_error, HasSubstr("not finite"));
  EXPECT_EQ(set.failures()[4].count, 0);
  static_cast<void>(set.score(inputs_of(sample, 3)));
  EXPECT_EQ(set.failures()[0].count, 6) << "since the beginning";
}

TEST(RewardSet, AFailedSampleSparesTheOthersAndCountsAsZero) {
  auto set = set_of({{.name = "some"}}, {[](size_t) {
                      return std::vector<RewardResult>{
                          {.value = 9, .failed = true, .error = "first"}, {.value = 0.25}};
                    }});
  const nlohmann::json sample;
  const auto totals = set.score(inputs_of(sample, 2));
  EXPECT_TRUE(totals[0].failed);
  EXPECT_EQ(totals[0].total, 0);
  EXPECT_EQ(totals[0].parts[0], 0);
  EXPECT_FALSE(totals[1].failed);
  EXPECT_EQ(totals[1].total, 0.25);
}

TEST(RewardSet, WhatOnlyTheUserCanMendIsPassedOn) {
  auto set =
      set_of({{.name = "broken"}},
             {[](size_t) -> std::vector<RewardResult> { throw ConfigError("set command"); }});
  const nlohmann::json sample;
  EXPECT_THROW(static_cast<void>(set.score(inputs_of(sample, 1))), ConfigError);
}

struct Refused {
  RewardConfig config;
  const char* message;
};
class RefusedConfig : public testing::TestWithParam<Refused> {};
TEST_P(RefusedConfig, SaysWhatToSet) {
  EXPECT_THAT([] { GetParam().config.validate(); },
              testing::ThrowsMessage<ConfigError>(
                  testing::AllOf(HasSubstr("rl.rewards: "), HasSubstr(GetParam().message))));
  EXPECT_THROW((void)make_reward(GetParam().config), ConfigError);
  EXPECT_THROW(RewardSet({GetParam().config}), ConfigError);
}
INSTANTIATE_TEST_SUITE_P(
    Reward, RefusedConfig,
    testing::Values(
        Refused{{.name = "numerik"},
                "there is no reward 'numerik'; did you mean numeric?; use numeric, exact"},
        Refused{{.name = ""}, "there is no reward ''"},
        Refused{{.name = "exact", .weight = std::numeric_limits<double>::quiet_NaN()},
                "exact: weight must be a finite"},
        Refused{{.name = "numeric", .tolerance = -1}, "numeric: tolerance = -1"},
        Refused{{.name = "numeric", .tolerance = 1}, "tolerance = 1"},
        Refused{{.name = "exact", .field = ""}, "field must name"},
        Refused{{.name = "format", .pattern = "xml"},
                "pattern 'xml' is unknown; use think, think-answer, boxed"},
        Refused{{.name = "language", .language = "xx"},
                "language 'xx' is unknown; use one of ar, bg"},
        Refused{{.name = "length"},
                "target_length = 0 must not be negative and be below max_length = 0"},
        Refused{{.name = "length", .target_length = -1, .max_length = 5}, "target_length = -1"},
        Refused{{.name = "program"}, "set command to the program"},
        Refused{{.name = "program", .command = {"cat"}, .deadline_seconds = 0},
                "deadline_seconds = 0 must be above 0"},
        Refused{{.name = "plugin"}, "set library"},
        Refused{{.name = "code", .memory_mb = 1}, "memory_mb = 1 must be at least 16"},
        Refused{{.name = "code", .processes = 0}, "processes = 0"},
        Refused{{.name = "code", .file_mb = 0}, "file_mb = 0"}));

}  // namespace
}  // namespace tessera::rl
