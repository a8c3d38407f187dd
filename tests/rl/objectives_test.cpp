#include "rl/objectives.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tessera::rl {
namespace {

const std::vector<std::string> kObjectives = {"grpo", "r1_grpo", "dr_grpo", "dapo", "gspo", "cispo"};
constexpr double kLow = 0.2, kHigh = 0.3;

struct Outcome {
  double loss = 0;
  std::vector<float> derivatives;
  PolicyStatistics statistics;
};

Outcome run(const PolicyConfig& config, const PolicyBatch& batch, const std::vector<float>& log_probs, const PolicyDenominators& d = {}) {
  Outcome result{0, std::vector<float>(log_probs.size(), 77.0f), {}};
  result.loss = policy_loss(config, d, batch, log_probs.data(), result.derivatives.data(), result.statistics);
  return result;
}

PolicyConfig config_of(const std::string& objective, double beta = 0, double cap = 0) { return {objective, kLow, kHigh, beta, cap, 10}; }

// Ratios stand well inside the bounds, or well outside of them, so that no difference crosses a kink.
constexpr double kRatios[] = {1.1, 0.5, 1.9, 0.92, 1.05, 0.6, 1.6, 1.2, 0.95, 2.2};

PolicyBatch mixed_batch(std::vector<float>& log_probs, bool old, bool reference) {
  PolicyBatch batch{{4, 1, 3, 2}, {0.7f, -1.3f, 0.0f, -0.4f}, {}, {}, {}};
  for (size_t t = 0; t < 10; ++t) {
    log_probs.push_back(-0.5f - 0.17f * static_cast<float>(t * 7 % 10));
    if (old) batch.old_log_probs.push_back(log_probs[t] - static_cast<float>(std::log(kRatios[t])));
    if (reference) batch.reference.push_back(log_probs[t] + 0.3f * static_cast<float>(std::sin(1.0 + static_cast<double>(t))));
    batch.rollout.push_back((old ? batch.old_log_probs[t] : log_probs[t]) + 0.4f * static_cast<float>(std::cos(2.0 * static_cast<double>(t))));
  }
  return batch;
}

/// What the derivatives are of: terms that are held constant are given as such. Before the first update the ratio's denominator is the
/// log-probabilities of now, held; with cispo the clipped ratio is.
double held_loss(const PolicyConfig& config, PolicyBatch batch, const std::vector<float>& held, const std::vector<float>& log_probs, const PolicyDenominators& d) {
  if (batch.old_log_probs.empty()) batch.old_log_probs = held;
  if (config.objective != "cispo") return run(config, batch, log_probs, d).loss;
  // Linear in log p: its slope from where nothing is moved; the KL term apart.
  PolicyConfig plain = config;
  plain.kl_coefficient = 0;
  const Outcome at = run(plain, batch, held, d);
  double loss = 0;
  for (size_t t = 0; t < held.size(); ++t) loss += at.loss / static_cast<double>(held.size()) + (double{log_probs[t]} - held[t]) * at.derivatives[t];
  PolicyBatch without = batch;
  std::fill(without.advantages.begin(), without.advantages.end(), 0.0f);
  return loss + run(config, without, log_probs, d).loss;
}

TEST(PolicyLoss, DerivativesEqualFiniteDifferences) {
  for (const auto& objective : kObjectives)
    for (const bool old : {false, true})
      for (const double beta : {0.0, 0.3})
        for (const double cap : {0.0, 1.15}) {
          SCOPED_TRACE(objective + (old ? " old" : " first") + (beta > 0 ? " KL" : "") + (cap > 0 ? " cap" : ""));
          std::vector<float> log_probs;
          const PolicyBatch batch = mixed_batch(log_probs, old, beta > 0);
          const PolicyConfig config = config_of(objective, beta, cap);
          const PolicyDenominators denominators{7, 23};
          const Outcome at = run(config, batch, log_probs, denominators);
          EXPECT_NEAR(at.loss, held_loss(config, batch, log_probs, log_probs, denominators), 1e-7);
          for (size_t t = 0; t < log_probs.size(); ++t) {
            constexpr float kStep = 1.0f / 1024;  // exact in float beside these values
            auto up = log_probs, down = log_probs;
            up[t] += kStep;
            down[t] -= kStep;
            const double slope = (held_loss(config, batch, log_probs, up, denominators) - held_loss(config, batch, log_probs, down, denominators)) /
                                 (double{up[t]} - down[t]);
            EXPECT_NEAR(at.derivatives[t], slope, 1e-6 + 1e-4 * std::abs(slope)) << "token " << t;
          }
        }
}

/// One completion of one token with ratio `r`.
Outcome one_token(const std::string& objective, double advantage, double ratio) {
  const PolicyBatch batch{{1}, {static_cast<float>(advantage)}, {-1.0f - static_cast<float>(std::log(ratio))}, {}, {}};
  return run(config_of(objective), batch, {-1.0f});
}

TEST(PolicyLoss, IsClippedWhereTheClippedTermIsTheSmaller) {
  for (const std::string objective : {"grpo", "r1_grpo", "dapo", "gspo"}) {
    SCOPED_TRACE(objective);
    struct Case {
      double advantage, ratio, loss, derivative;
    };
    for (const Case& c : {Case{2, 1.5, -2 * 1.3, 0}, Case{2, 0.5, -2 * 0.5, -2 * 0.5}, Case{-2, 1.5, 2 * 1.5, 2 * 1.5}, Case{-2, 0.5, 2 * 0.8, 0},
                          Case{2, 1.25, -2 * 1.25, -2 * 1.25}, Case{-2, 0.85, 2 * 0.85, 2 * 0.85}}) {
      const Outcome result = one_token(objective, c.advantage, c.ratio);
      EXPECT_NEAR(result.loss, c.loss, 1e-6) << c.advantage << " " << c.ratio;
      EXPECT_NEAR(result.derivatives[0], c.derivative, 1e-6) << c.advantage << " " << c.ratio;
      EXPECT_EQ(result.statistics.clipped, c.derivative == 0 ? 1 : 0);
    }
  }
}

TEST(PolicyLoss, OfCispoBoundsTheWeightAndDropsNoToken) {
  for (const double advantage : {2.0, -2.0})
    for (const double ratio : {0.5, 1.1, 1.9}) {
      const Outcome result = one_token("cispo", advantage, ratio);
      const double weight = std::clamp(ratio, 0.8, 1.3);
      EXPECT_NEAR(result.loss, -weight * advantage * -1.0, 1e-6);
      EXPECT_NEAR(result.derivatives[0], -weight * advantage, 1e-6);
    }
}

TEST(PolicyLoss, DividesAsEachObjectiveSays) {
  // Before the first update every ratio is 1: a token's derivative is minus its weight times its advantage. 5 rollouts and 40 tokens
  // in the step, of which 2 and 6 are here; at most 10 tokens a completion.
  const PolicyBatch batch{{4, 2}, {1.0f, -3.0f}, {}, {}, {}};
  const std::vector<float> log_probs = {-1, -2, -1, -2, -3, -1};
  const std::vector<std::pair<std::string, std::vector<double>>> weights = {{"grpo", {1.0 / 20, 1.0 / 10}}, {"r1_grpo", {1.0 / 5, 1.0 / 5}},
                                                                           {"dr_grpo", {1.0 / 50, 1.0 / 50}}, {"dapo", {1.0 / 40, 1.0 / 40}},
                                                                           {"gspo", {1.0 / 20, 1.0 / 10}}, {"cispo", {1.0 / 40, 1.0 / 40}}};
  for (const auto& [objective, weight] : weights) {
    const Outcome result = run(config_of(objective), batch, log_probs, {5, 40});
    for (size_t t = 0; t < 6; ++t) EXPECT_NEAR(result.derivatives[t], -weight[t < 4 ? 0 : 1] * (t < 4 ? 1 : -3), 1e-7) << objective << " " << t;
  }
}

TEST(PolicyLoss, DividesItsValuesAsEachObjectiveSays) {
  const PolicyBatch batch{{4, 2}, {1.0f, -3.0f}, {}, {}, {}};
  const std::vector<float> log_probs = {-1, -2, -1, -2, -3, -1};
  const std::vector<std::pair<std::string, double>> losses = {{"grpo", 2.0 / 5}, {"r1_grpo", 2.0 / 5}, {"dr_grpo", 2.0 / 50},
                                                              {"dapo", 2.0 / 40}, {"gspo", 2.0 / 5}, {"cispo", (6.0 - 12.0) / 40}};
  for (const auto& [objective, loss] : losses) EXPECT_NEAR(run(config_of(objective), batch, log_probs, {5, 40}).loss, loss, 1e-7) << objective;
}

TEST(PolicyLoss, PullsTowardsTheReferenceByK3) {
  // Advantages of 0 leave the KL term alone. d = log 2 and -log 2: k3 is 1 - log 2 and log 2 - 1/2; of the other direction it would be
  // these two exchanged.
  const auto log2 = static_cast<float>(std::log(2.0));
  const PolicyBatch batch{{1, 1}, {0, 0}, {}, {-1 + log2, -1 - log2}, {}};
  for (const auto& objective : kObjectives) {
    PolicyConfig config = config_of(objective, 0.5);
    config.max_new_tokens = 1;
    PolicyBatch first{{1}, {0}, {}, {batch.reference[0]}, {}}, second{{1}, {0}, {}, {batch.reference[1]}, {}};
    const Outcome up = run(config, first, {-1}), down = run(config, second, {-1});
    EXPECT_NEAR(up.loss, 0.5 * (1 - std::log(2.0)), 1e-6) << objective;
    EXPECT_NEAR(down.loss, 0.5 * (std::log(2.0) - 0.5), 1e-6) << objective;
    EXPECT_NEAR(up.derivatives[0], -0.5 * 1.0, 1e-6) << objective;    // too unlikely: more of it
    EXPECT_NEAR(down.derivatives[0], -0.5 * -0.5, 1e-6) << objective;  // too likely: less
    EXPECT_NEAR(up.statistics.kl_reference, 1 - std::log(2.0), 1e-6);
  }
}

TEST(PolicyLoss, KlIsDividedAsThePolicyTerm) {
  const PolicyBatch batch{{2, 1}, {0, 0}, {}, {-1.5f, -0.5f, -2}, {}};
  const std::vector<float> log_probs = {-1, -1, -1};
  const auto k3 = [](double d) { return std::exp(d) - d - 1; };
  const double a = k3(-0.5), b = k3(0.5), c = k3(-1);
  const std::vector<std::pair<std::string, double>> losses = {{"grpo", ((a + b) / 2 + c) / 5}, {"gspo", ((a + b) / 2 + c) / 5}, {"dr_grpo", (a + b + c) / 50},
                                                              {"dapo", (a + b + c) / 40}, {"cispo", (a + b + c) / 40}, {"r1_grpo", (k3(0) + c) / 5}};
  for (const auto& [objective, loss] : losses)
    EXPECT_NEAR(run(config_of(objective, 0.1), batch, log_probs, {5, 40}).loss, 0.1 * loss, 1e-7) << objective;
}

TEST(PolicyLoss, OfSequencesHasOneRatioACompletion) {
  const PolicyBatch batch{{2}, {1}, {-1.2f, -0.9f}, {}, {}};  // log ratios 0.2, -0.1
  const Outcome gspo = run(config_of("gspo"), batch, {-1, -1}), r1 = run(config_of("r1_grpo"), batch, {-1, -1});
  EXPECT_NEAR(gspo.loss, -std::exp(0.05), 1e-6);
  EXPECT_NEAR(gspo.derivatives[1], -std::exp(0.05) / 2, 1e-6);
  EXPECT_NEAR(r1.loss, -std::exp(0.1), 1e-6);
  EXPECT_NEAR(r1.derivatives[1], -std::exp(0.1), 1e-6);
  // Clipped: all tokens of it.
  const PolicyBatch far{{2}, {1}, {-2.0f, -1.0f}, {}, {}};
  for (const char* objective : {"gspo", "r1_grpo"}) {
    const Outcome result = run(config_of(objective), far, {-1, -1});
    EXPECT_NEAR(result.loss, -1.3, 1e-6);
    EXPECT_THAT(result.derivatives, testing::Each(0.0f));
    EXPECT_EQ(result.statistics.clipped, 2);
  }
}

TEST(PolicyLoss, WeighsByTheTruncatedImportanceOfTheRollouts) {
  // Old over rollout: e^0.1 and e^1, capped at 1.5; the KL term is not weighted.
  PolicyBatch batch{{2}, {1}, {-1, -1}, {}, {-1.1f, -2}};
  const Outcome result = run(config_of("dapo", 0, 1.5), batch, {-1, -1}, {1, 2});
  EXPECT_NEAR(result.derivatives[0], -std::exp(0.1) / 2, 1e-6);
  EXPECT_NEAR(result.derivatives[1], -1.5 / 2, 1e-6);
  EXPECT_NEAR(result.loss, -(std::exp(0.1) + 1.5) / 2, 1e-6);
  // Of the whole completion: the product (r1_grpo), the geometric mean (gspo).
  EXPECT_NEAR(run(config_of("r1_grpo", 0, 5), batch, {-1, -1}).loss, -std::exp(1.1), 1e-5);
  EXPECT_NEAR(run(config_of("gspo", 0, 5), batch, {-1, -1}).loss, -std::exp(0.55), 1e-5);
  EXPECT_NEAR(run(config_of("gspo", 0, 1.5), batch, {-1, -1}).loss, -1.5, 1e-6);
  batch.reference = {-1.5f, -1};
  PolicyConfig with_kl = config_of("dapo", 2, 1.5);
  EXPECT_NEAR(run(with_kl, batch, {-1, -1}, {1, 2}).loss, result.loss + std::exp(-0.5) - 0.5, 1e-6);
  // Before the first update the log-probabilities of now stand for the old ones.
  batch.old_log_probs.clear();
  batch.reference.clear();
  EXPECT_NEAR(run(config_of("dapo", 0, 1.5), batch, {-1, -1}, {1, 2}).loss, result.loss, 1e-6);
}

TEST(PolicyLoss, GivesEveryCompletionItsOwnAdvantage) {
  const PolicyBatch batch{{1, 3, 2}, {1, 0, -2}, {}, {}, {}};
  const Outcome result = run(config_of("dapo"), batch, {-1, -1, -1, -1, -1, -1}, {1, 1});
  EXPECT_THAT(result.derivatives, testing::ElementsAre(-1, 0, 0, 0, 2, 2));
}

TEST(PolicyLoss, OfPartsIsTheLossOfTheWhole) {
  for (const auto& objective : kObjectives) {
    std::vector<float> log_probs;
    const PolicyBatch whole = mixed_batch(log_probs, true, true);
    const PolicyConfig config = config_of(objective, 0.1, 1.2);
    const Outcome all = run(config, whole, log_probs, {9, 30});
    double loss = 0;
    std::vector<float> derivatives;
    PolicyStatistics statistics;
    int64_t begin = 0;
    for (size_t i = 0; i < whole.lengths.size(); ++i) {
      const auto part = [&](const std::vector<float>& v) { return std::vector<float>(v.begin() + begin, v.begin() + begin + whole.lengths[i]); };
      const PolicyBatch one{{whole.lengths[i]}, {whole.advantages[i]}, part(whole.old_log_probs), part(whole.reference), part(whole.rollout)};
      const auto p = part(log_probs);
      std::vector<float> d(p.size());
      loss += policy_loss(config, {9, 30}, one, p.data(), d.data(), statistics);
      derivatives.insert(derivatives.end(), d.begin(), d.end());
      begin += whole.lengths[i];
    }
    EXPECT_NEAR(loss, all.loss, 1e-12) << objective;
    EXPECT_EQ(derivatives, all.derivatives) << objective;
    EXPECT_EQ(statistics.tokens, 10);
    EXPECT_EQ(statistics.completions, 4);
    EXPECT_EQ(statistics.clipped, all.statistics.clipped);
    EXPECT_NEAR(statistics.kl_rollout, all.statistics.kl_rollout, 1e-12);
    EXPECT_NEAR(statistics.kl_reference, all.statistics.kl_reference, 1e-12);
  }
}

TEST(PolicyLoss, CountsWhatItSaw) {
  const PolicyBatch batch{{2, 1}, {1, -1}, {-1, -2, -1}, {}, {-1, -1.5f, -1}};
  const auto s = run(config_of("grpo"), batch, {-1, -1, -1.5f}).statistics;  // ratios 1, e, e^-0.5
  EXPECT_EQ(s.tokens, 3);
  EXPECT_EQ(s.completions, 2);
  EXPECT_EQ(s.clipped, 2);
  EXPECT_NEAR(s.largest_ratio, std::exp(1.0) - 1, 1e-6);
  EXPECT_NEAR(s.kl_rollout, (std::exp(0.5) - 1.5) + (std::exp(-0.5) - 0.5), 1e-6);
}

TEST(PolicyLoss, OfNothingIsZero) {
  const Outcome result = run(config_of("grpo"), {}, {});
  EXPECT_EQ(result.loss, 0);
  EXPECT_EQ(result.statistics.tokens, 0);
}

}  // namespace
}  // namespace tessera::rl
