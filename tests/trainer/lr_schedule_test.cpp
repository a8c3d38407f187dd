#include "trainer/lr_schedule.h"

#include <torch/torch.h>

#include "tests/support/support.h"

namespace tessera::trainer {
namespace {

LrScheduleConfig schedule(const std::string& name, int64_t warmup = 0, double final_lr = 0.1, int64_t decay = 0) {
  return {.name = name, .warmup_steps = warmup, .final_lr = final_lr, .decay_steps = decay};
}

TEST(LrSchedule, WarmsUpLinearlyToOne) {
  for (const char* name : {"constant", "linear", "cosine", "wsd"}) {
    const auto c = schedule(name, 4);
    for (int64_t step = 0; step <= 4; ++step) EXPECT_DOUBLE_EQ(lr_factor(c, step, 100), static_cast<double>(step + 1) / 5) << name;
    EXPECT_LE(lr_factor(c, 5, 100), 1.0) << name;
  }
}

TEST(LrSchedule, ConstantStays) {
  for (int64_t step = 0; step < 50; ++step) EXPECT_EQ(lr_factor(schedule("constant"), step, 50), 1.0);
}

TEST(LrSchedule, LinearFallsEvenlyToTheLastStep) {
  const auto c = schedule("linear", 10, 0.2);
  EXPECT_DOUBLE_EQ(lr_factor(c, 10, 111), 1.0);
  EXPECT_DOUBLE_EQ(lr_factor(c, 60, 111), 0.6);
  EXPECT_DOUBLE_EQ(lr_factor(c, 110, 111), 0.2);
  EXPECT_NEAR(lr_factor(c, 31, 111) - lr_factor(c, 30, 111), -0.8 / 100, 1e-12);
}

TEST(LrSchedule, CosineIsHalfWayInTheMiddle) {
  const auto c = schedule("cosine", 10, 0.1);
  EXPECT_DOUBLE_EQ(lr_factor(c, 10, 111), 1.0);
  EXPECT_NEAR(lr_factor(c, 60, 111), 0.55, 1e-12);
  EXPECT_NEAR(lr_factor(c, 35, 111), 0.1 + 0.9 * 0.5 * (1 + std::sqrt(0.5)), 1e-12);
  EXPECT_NEAR(lr_factor(c, 110, 111), 0.1, 1e-12);
  for (int64_t step = 10; step < 110; ++step) EXPECT_GT(lr_factor(c, step, 111), lr_factor(c, step + 1, 111));
}

TEST(LrSchedule, WsdFallsInItsLastPhaseOnly) {
  const auto c = schedule("wsd", 5, 0.0, 20);
  for (int64_t step = 5; step <= 79; ++step) EXPECT_EQ(lr_factor(c, step, 100), 1.0) << step;
  EXPECT_NEAR(lr_factor(c, 89, 100), 0.5, 1e-12);
  EXPECT_NEAR(lr_factor(c, 99, 100), 0.0, 1e-12);
  const auto tenth = schedule("wsd", 0, 0.5);  // the last phase is a tenth of all steps
  EXPECT_EQ(lr_factor(tenth, 89, 100), 1.0);
  EXPECT_LT(lr_factor(tenth, 90, 100), 1.0);
  EXPECT_NEAR(lr_factor(tenth, 99, 100), 0.5, 1e-12);
}

TEST(LrSchedule, OddLengthsStayBetweenFinalAndOne) {
  for (const char* name : {"constant", "linear", "cosine", "wsd"}) {
    for (const int64_t steps : {1, 2, 3}) {
      for (const int64_t warmup : {0, 1, 5}) {
        for (int64_t step = 0; step < steps + 2; ++step) {
          const double factor = lr_factor(schedule(name, warmup, 0.1, 10), step, steps);
          EXPECT_GT(factor, 0.0) << name << steps << warmup << step;
          EXPECT_LE(factor, 1.0) << name << steps << warmup << step;
        }
      }
    }
  }
}

}  // namespace
}  // namespace tessera::trainer
