#include "parallel/pipeline_schedule.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "core/error.h"
#include "parallel/pipeline_check.h"

namespace tessera::parallel {
namespace {

using ::testing::HasSubstr;

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

const std::vector<std::string> kNames = {"gpipe", "1f1b", "interleaved", "zb_h1", "zb_v", "dualpipe", "dualpipe_v"};

/// Every schedule on its domain.
template <typename Body>
void for_each_schedule(const std::vector<int32_t>& ranks, const Body& body) {
  for (const auto& name : kNames) {
    for (const int32_t p : ranks) {
      if (name == "dualpipe" && p % 2 != 0) continue;
      const MicrobatchRule rule = microbatch_rule(name, p);
      const int32_t least = (std::max(rule.at_least, 1) + rule.multiple_of - 1) / rule.multiple_of * rule.multiple_of;
      for (const int32_t more : {0, 1, 2, 5}) body(make_pipeline_schedule(name, p, least + more * rule.multiple_of, 2));
    }
  }
}

TEST(PipelineSchedule, EveryScheduleIsCompleteAndEnds) {
  int count = 0;
  for_each_schedule({1, 2, 3, 4, 5, 8, 16}, [&](const PipelineSchedule& s) {
    EXPECT_EQ(message_of([&] { check(s); }), "") << s.name << " p " << s.num_ranks << " m " << s.num_microbatches;
    ++count;
  });
  EXPECT_GT(count, 150);
}

double bubble(const PipelineSchedule& s, const ActionCosts& costs) {
  check(s);
  return simulate(s, costs).bubble;
}

TEST(PipelineSchedule, BubblesAreThoseOfTheLiterature) {
  const double f = 1.0, i = 1.25, w = 0.75, b = i + w;
  const ActionCosts costs{.forward = f, .backward_input = i, .backward_weight = w};
  const ActionCosts equal{}, light{.backward_weight = 0.5};
  for (int32_t p = 2; p <= 16; ++p) {
    const double others = p - 1;
    for (const int32_t rounds : {1, 2, 5}) {
      const int32_t m = rounds * p;
      EXPECT_NEAR(bubble(make_gpipe(p, m), costs), others * (f + b), 1e-9) << p << ' ' << m;
      EXPECT_NEAR(bubble(make_1f1b(p, m), costs), others * (f + b), 1e-9) << p << ' ' << m;
      for (const int32_t v : {2, 3, 4})  // costs are of one stage, a v-th of the rank's
        EXPECT_NEAR(bubble(make_interleaved_1f1b(p, m, v), costs), others * (f + b), 1e-9) << p << ' ' << m << ' ' << v;
      if (rounds == 1) continue;
      EXPECT_NEAR(bubble(make_zero_bubble_h1(p, m), costs), others * (f + b - 2 * w), 1e-9) << p << ' ' << m;
    }
    EXPECT_NEAR(bubble(make_zero_bubble_v(p, 3 * p), equal), 0.0, 1e-9) << p;
    if (p % 2 == 0) {
      const double half = p / 2 - 1;
      for (const int32_t m : {2 * p, 2 * p + 2, 2 * p + 6, 5 * p}) {
        EXPECT_NEAR(bubble(make_dualpipe(p, m), equal), half * ((1 + 2) + 2 - 3 * 1), 1e-9) << p << ' ' << m;
        EXPECT_NEAR(bubble(make_dualpipe(p, m), light), half * ((1 + 1.5) + 1.5 - 3 * 0.5), 1e-9) << p << ' ' << m;
      }
    }
    EXPECT_NEAR(bubble(make_dualpipe_v(p, 3 * p), equal), others * ((1 + 2) + 2 - 3 * 1), 1e-9) << p;
    EXPECT_NEAR(bubble(make_dualpipe_v(p, 3 * p), light), others * ((1 + 1.5) + 1.5 - 3 * 0.5), 1e-9) << p;
  }
}

TEST(PipelineSchedule, MemoryIsThatOfTheLiterature) {
  const int32_t p = 8, m = 32;
  const auto peaks = [](const PipelineSchedule& s) { return peak_activations(s); };
  EXPECT_EQ(peaks(make_gpipe(p, m)), std::vector<int32_t>(p, m));
  for (int32_t r = 0; r < p; ++r) EXPECT_EQ(peaks(make_1f1b(p, m))[static_cast<size_t>(r)], p - r);
  EXPECT_EQ(peaks(make_zero_bubble_h1(p, m)), std::vector<int32_t>(p, p));
  const auto most = [&](const PipelineSchedule& s) {
    const auto all = peaks(s);
    return *std::max_element(all.begin(), all.end());
  };
  EXPECT_EQ(most(make_zero_bubble_v(p, m)), 2 * p);
  EXPECT_EQ(most(make_dualpipe(p, m)), p + 1);
  EXPECT_EQ(most(make_dualpipe_v(p, m)), 2 * p + 1);
}

TEST(PipelineSchedule, PlacementsHoldEachStageWhereItBelongs) {
  EXPECT_EQ(make_1f1b(4, 4).placement.stages_of(2), (std::vector<int32_t>{2}));
  EXPECT_EQ(make_interleaved_1f1b(4, 4, 3).placement.stages_of(1), (std::vector<int32_t>{1, 5, 9}));
  EXPECT_EQ(make_zero_bubble_v(4, 8).placement.stages_of(1), (std::vector<int32_t>{1, 6}));
  const auto dual = make_dualpipe(4, 8);
  EXPECT_EQ(dual.placement.stages_of(1), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(dual.placement.rank(0, 0), 0);
  EXPECT_EQ(dual.placement.rank(0, 4), 3);
}

TEST(PipelineSchedule, TransfersDelayAndOverlapSaves) {
  const auto s = make_gpipe(2, 4);
  EXPECT_NEAR(simulate(s, {.transfer = 0.5}).makespan, simulate(s, {}).makespan + 2 * 0.5, 1e-9);
  const auto dual = make_dualpipe(4, 12);
  EXPECT_LT(simulate(dual, {.overlapped_saving = 0.5}).makespan, simulate(dual, {}).makespan);
}

TEST(PipelineSchedule, NumbersOutsideTheDomainAreRefused) {
  EXPECT_THAT(message_of([] { make_pipeline_schedule("zigzag", 2, 4, 1); }), HasSubstr("known are gpipe, 1f1b"));
  EXPECT_THAT(message_of([] { make_dualpipe(3, 8); }), HasSubstr("parallel.pp = 3 must be even"));
  EXPECT_THAT(message_of([] { make_dualpipe(4, 6); }), HasSubstr("at least 8 and a multiple of 2"));
  EXPECT_THAT(message_of([] { make_interleaved_1f1b(4, 6, 2); }), HasSubstr("a multiple of 4"));
}

/// The schedule with one thing wrong; empty if this mutation does not apply.
std::optional<PipelineSchedule> mutate(PipelineSchedule s, int kind) {
  auto& steps = s.ranks[static_cast<size_t>(kind % 2)];
  const auto find = [&](ActionKind wanted) {
    return std::find_if(steps.begin(), steps.end(), [&](const Step& step) { return step.first.kind == wanted && !step.second; });
  };
  const auto forward = find(ActionKind::kForward);
  const auto backward = std::find_if(steps.begin(), steps.end(), [](const Step& step) { return step.first.kind != ActionKind::kForward; });
  switch (kind / 2) {
    case 0: steps.pop_back(); return s;
    case 1: steps.erase(steps.begin()); return s;
    case 2: steps.push_back(*forward); return s;
    case 3: steps.push_back(*backward); return s;
    case 4: forward->first.stage = s.num_stages; return s;
    case 5: forward->first.microbatch = -1; return s;
    case 6: std::reverse(steps.begin(), steps.end()); return s;
    case 7: std::rotate(steps.begin(), backward, steps.end()); return s;
    case 8: forward->first.kind = ActionKind::kBackwardWeight; return s;
    case 9: backward->first.kind = ActionKind::kForward; return s;
    case 10: std::swap(s.ranks[0], s.ranks[1]); return s;
    case 11: forward->second = forward->first; return s;
    default: return std::nullopt;
  }
}

TEST(PipelineSchedule, MutatedSchedulesAreRefused) {
  int refused = 0;
  for (const auto& name : kNames) {
    for (int kind = 0; kind < 24; ++kind) {
      const auto bad = mutate(make_pipeline_schedule(name, 4, 8, 2), kind);
      ASSERT_TRUE(bad.has_value());
      EXPECT_NE(message_of([&] { check(*bad); }), "") << name << ", mutation " << kind;
      ++refused;
    }
  }
  EXPECT_EQ(refused, 24 * 7);
}

TEST(PipelineSchedule, RanksThatWaitForEachOtherAreFound) {
  // Two ranks with two stages each; each begins with the micro-batch that the other has to send first.
  PipelineSchedule s{"circle", 2, 2, 2, {{{0, 1}, {1, 0}}, {0, 1}}, {}};
  const auto f = [](int32_t stage, int32_t m) { return Step{{ActionKind::kForward, stage, m}, std::nullopt}; };
  const auto b = [](int32_t stage, int32_t m) { return Step{{ActionKind::kBackward, stage, m}, std::nullopt}; };
  s.ranks = {{f(1, 1), f(0, 0), b(1, 1), b(0, 0)}, {f(1, 0), f(0, 1), b(1, 0), b(0, 1)}};
  EXPECT_THAT(message_of([&] { check(s); }), HasSubstr("waits for ever"));
  s.ranks[0] = {f(0, 0), f(1, 1), b(1, 1), b(0, 0)};
  s.ranks[1] = {f(0, 1), f(1, 0), b(1, 0), b(0, 1)};
  EXPECT_EQ(message_of([&] { check(s); }), "");
}

TEST(PipelineSchedule, LargeSchedulesAreChecked) {
  for (const auto& name : kNames) check(make_pipeline_schedule(name, 64, 512, 2));
}

}  // namespace
}  // namespace tessera::parallel
