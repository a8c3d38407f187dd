#include "rl/preference.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tessera::rl {
namespace {

/// Two pairs: chosen and rejected answers of 2, 3, 1 and 2 tokens.
std::vector<PolicyBatch> pairs() {
  PolicyBatch batch;
  batch.lengths = {2, 3, 1, 2};
  batch.reference = {-1.0f, -2.0f, -0.5f, -1.5f, -3.0f, -2.5f, -0.25f, -4.0f};
  return {batch};
}
const std::vector<float> kLogProbs = {-0.5f, -1.0f, -0.75f, -2.5f, -2.0f, -4.0f, -0.5f, -1.0f};

double loss_of(const DpoConfig& config, const std::vector<float>& log_probs, std::vector<float>* weights = nullptr) {
  const auto batches = pairs();
  PairObjective objective(config, 2, batches);
  std::vector<float> own(log_probs.size());
  return objective.weigh(0, log_probs.data(), nullptr, weights ? weights->data() : own.data());
}

double minus_log_sigmoid(double x) { return std::log1p(std::exp(-x)); }

TEST(PairLoss, IsOfTheDifferenceOfLogRatios) {
  // Log-ratios: chosen (-0.5 - 1) - (-1 - 2) = 1.5, rejected -5.25 + 5 = -0.25; chosen -4 + 2.5 = -1.5, rejected -1.5 + 4.25 = 2.75.
  const double first = 0.3 * 1.75, second = 0.3 * -4.25;
  EXPECT_NEAR(loss_of({0.3, 0}, kLogProbs), (minus_log_sigmoid(first) + minus_log_sigmoid(second)) / 2, 1e-6);
  EXPECT_NEAR(loss_of({0.3, 0.2}, kLogProbs),
              (0.8 * (minus_log_sigmoid(first) + minus_log_sigmoid(second)) + 0.2 * (minus_log_sigmoid(-first) + minus_log_sigmoid(-second))) / 2, 1e-6);
}

TEST(PairLoss, DerivativesEqualFiniteDifferences) {
  for (const DpoConfig& config : {DpoConfig{0.1, 0}, DpoConfig{2.0, 0.3}}) {
    std::vector<float> weights(kLogProbs.size());
    (void)loss_of(config, kLogProbs, &weights);
    for (size_t t = 0; t < kLogProbs.size(); ++t) {
      constexpr float kStep = 0.0078125f;
      auto up = kLogProbs, down = kLogProbs;
      up[t] += kStep;
      down[t] -= kStep;
      // The trainer's weights are of -log p.
      EXPECT_NEAR(-weights[t], (loss_of(config, up) - loss_of(config, down)) / (2 * kStep), 2e-4) << t;
    }
  }
}

TEST(PairLoss, FarApartIsFinite) {
  auto far = kLogProbs;
  far[0] = -5000;
  std::vector<float> weights(far.size());
  EXPECT_NEAR(loss_of({1.0, 0}, far, &weights), (4997.75 + minus_log_sigmoid(-4.25)) / 2, 1e-2);
  for (float w : weights) EXPECT_TRUE(std::isfinite(w));
}

}  // namespace
}  // namespace tessera::rl
