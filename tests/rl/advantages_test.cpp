#include "rl/advantages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace tessera::rl {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;
using testing::Pointwise;

const std::vector<bool> kAll6(6, true);

std::vector<double> of(const std::vector<double>& rewards, const std::vector<bool>& usable, int64_t group, const char* baseline, bool scale) {
  return advantages(rewards, usable, group, {baseline, scale});
}

TEST(Advantages, OfAGroupAreOverItsUnbiasedDeviation) {
  // Means 2 and 30; sums of squares 2 and 200 over 3 - 1.
  const auto values = of({1, 2, 3, 20, 30, 40}, kAll6, 3, "group", true);
  EXPECT_THAT(values, Pointwise(DoubleNear(1e-12), {-1 / 1.0001, 0.0, 1 / 1.0001, -10 / 10.0001, 0.0, 10 / 10.0001}));
}

TEST(Advantages, WithoutScalingAreDifferencesFromTheirOwnGroupsMean) {
  EXPECT_THAT(of({1, 2, 3, 20, 30, 70}, kAll6, 3, "group", false), ElementsAre(-1, 0, 1, -20, -10, 30));
  EXPECT_THAT(of({1, 3, 5, 5, 20, 30}, kAll6, 2, "group", false), ElementsAre(-1, 1, 0, 0, -5, 5));
}

TEST(Advantages, OfTheBatchTakeTheGroupsMeanAndTheDeviationOfAll) {
  const double deviation = std::sqrt((4 + 1 + 0 + 1 + 4 + 0) / 5.0);  // of 1 2 3 4 5 3 about 3
  const auto values = of({1, 2, 3, 4, 5, 3}, kAll6, 3, "batch", true);
  for (size_t i = 0; i < 6; ++i) EXPECT_NEAR(values[i], std::vector<double>({-1, 0, 1, 0, 1, -1})[i] / (deviation + 1e-4), 1e-12) << i;
}

TEST(Advantages, OfTheBatchWithGroupsOfOneTakeTheMeanOfAll) {
  EXPECT_THAT(of({1, 2, 6}, {true, true, true}, 1, "batch", false), ElementsAre(-2, -1, 3));
}

TEST(Advantages, LeaveOneOutIsTheRewardLessTheMeanOfTheOthers) {
  EXPECT_THAT(of({1, 2, 6, 4, 4, 1}, kAll6, 3, "leave_one_out", false), Pointwise(DoubleNear(1e-12), {-3.0, -1.5, 4.5, 1.5, 1.5, -3.0}));
}

TEST(Advantages, RewardsThatAreNotUsableCountNowhere) {
  const std::vector<bool> usable = {true, false, true, true, true, true};
  EXPECT_THAT(of({1, 100, 3, 1, 2, 3}, usable, 3, "group", false), ElementsAre(-1, 0, 1, -1, 0, 1));
  EXPECT_THAT(of({1, 100, 3, 1, 2, 3}, usable, 3, "leave_one_out", false), Pointwise(DoubleNear(1e-12), {-2.0, 0.0, 2.0, -1.5, 0.0, 1.5}));
  const auto scaled = of({1, 100, 3, 1, 2, 3}, usable, 3, "group", true);
  EXPECT_NEAR(scaled[2], 1 / (std::sqrt(2.0) + 1e-4), 1e-12);
  const auto batch = of({1, 100, 3, 1, 2, 3}, usable, 3, "batch", true);
  EXPECT_NEAR(batch[2], 1 / (1.0 + 1e-4), 1e-12);  // 1 3 1 2 3 about 2: 4 over 5 - 1
  EXPECT_EQ(batch[1], 0);
}

TEST(Advantages, AreZeroWhereAGroupSaysNothing) {
  for (const char* baseline : {"group", "batch", "leave_one_out"}) {
    // Equal up to rounding; one usable; none.
    const auto values = of({0.1, 0.1 + 1e-17, 0.1, 5, 7, 7, 1, 2, 3}, {true, true, true, true, false, false, false, false, false}, 3, baseline, true);
    EXPECT_THAT(values, testing::Each(0.0)) << baseline;
  }
}

}  // namespace
}  // namespace tessera::rl
