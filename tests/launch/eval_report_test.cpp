#include "launch/eval_report.h"

#include <gtest/gtest.h>

namespace tessera::launch {
namespace {

Judgement judged(double reward, std::string answer, bool stopped = true, bool failed = false) { return {reward, {reward}, failed, stopped, std::move(answer)}; }

TEST(EvalReport, OfOneSampleEachHasWilsonsInterval) {
  std::vector<Judgement> judgements(100, judged(0, "a"));
  for (size_t i = 0; i < 10; ++i) judgements[i].reward = 1;
  judgements[99].stopped = false;
  const auto report = summarize(judgements, 1, {"exact"}, true);
  EXPECT_DOUBLE_EQ(report["accuracy"].get<double>(), 0.10);
  EXPECT_EQ(report["correct"], 10);
  EXPECT_EQ(report["count"], 100);
  EXPECT_DOUBLE_EQ(report["stopped"].get<double>(), 0.99);
  // scipy.stats.binomtest(10, 100).proportion_ci(method="wilson")
  EXPECT_NEAR(report["confidence_95"][0].get<double>(), 0.05522914, 1e-7);
  EXPECT_NEAR(report["confidence_95"][1].get<double>(), 0.17436566, 1e-7);
  EXPECT_FALSE(report.contains("pass_at_k") || report.contains("samples") || report.contains("failed"));
}

TEST(EvalReport, OfSeveralSamplesCountsProblemsNotCompletions) {
  // Right: one of three, where the wrong answer has the majority; two of three; none; all.
  const std::vector<Judgement> judgements = {judged(1, "7"), judged(0, "8"), judged(0, "8"), judged(0, "5"), judged(1, "6"), judged(1, "6"),
                                             judged(0, "1"), judged(0, "2"), judged(0, "3"), judged(1, "9"), judged(1, "9"), judged(1, "9")};
  const auto report = summarize(judgements, 3, {"exact"}, true);
  EXPECT_DOUBLE_EQ(report["accuracy"].get<double>(), 0.5);
  EXPECT_EQ(report["correct"], 6);
  EXPECT_EQ(report["count"], 4);
  EXPECT_EQ(report["samples"], 3);
  EXPECT_DOUBLE_EQ(report["pass_at_k"].get<double>(), 0.75);
  EXPECT_DOUBLE_EQ(report["majority"].get<double>(), 0.5);
  // Means 1/3, 2/3, 0, 1: deviation 0.4303315 of 4.
  EXPECT_NEAR(report["confidence_95"][1].get<double>(), 0.5 + 1.959964 * 0.43033148 / 2, 1e-6);
}

TEST(EvalReport, OfEqualVotesTakesTheFirst) {
  EXPECT_DOUBLE_EQ(summarize({judged(1, "7"), judged(0, "8")}, 2, {"exact"}, true)["majority"].get<double>(), 1);
  EXPECT_DOUBLE_EQ(summarize({judged(0, "8"), judged(1, "7")}, 2, {"exact"}, true)["majority"].get<double>(), 0);
}

TEST(EvalReport, OfRewardsHasEachKindsMeanAndWhatFailed) {
  const std::vector<Judgement> judgements = {{1.5, {1, 0.5}, false, true, ""}, {0.25, {0, 0.25}, true, false, ""}};
  const auto report = summarize(judgements, 1, {"numeric", "length"}, false);
  EXPECT_DOUBLE_EQ(report["reward"].get<double>(), 0.875);
  EXPECT_DOUBLE_EQ(report["reward_numeric"].get<double>(), 0.5);
  EXPECT_DOUBLE_EQ(report["reward_length"].get<double>(), 0.375);
  EXPECT_DOUBLE_EQ(report["failed"].get<double>(), 0.5);
  EXPECT_DOUBLE_EQ(report["stopped"].get<double>(), 0.5);
  EXPECT_FALSE(report.contains("accuracy"));
}

}  // namespace
}  // namespace tessera::launch
