#include "inference/sampler.h"

#include <torch/torch.h>

#include <cmath>
#include <map>
#include <set>

#include "core/error.h"
#include "tests/support/support.h"

namespace tessera::inference {
namespace {

using test::message_of;

// Tokens by falling probability: 3, 0, 5, 1, 4, 2.
const std::vector<float> kLogits = {2.0f, 0.0f, -2.0f, 3.0f, -1.0f, 1.0f};

int32_t draw(const SamplingConfig& config, uint64_t sequence, uint32_t position = 0) {
  return draw_token(kLogits.data(), static_cast<int64_t>(kLogits.size()), config, sequence, position).token;
}

std::map<int32_t, int> draws(const SamplingConfig& config, int count = 4000) {
  std::map<int32_t, int> counts;
  for (int i = 0; i < count; ++i) ++counts[draw(config, static_cast<uint64_t>(i))];
  return counts;
}

std::set<int32_t> allowed(const SamplingConfig& config) {
  std::set<int32_t> tokens;
  for (const auto& [token, count] : draws(config)) tokens.insert(token);
  return tokens;
}

TEST(Sampler, GreedyTakesTheFirstMaximum) {
  std::vector<float> logits = {1.0f, 4.0f, 4.0f, -1.0f};
  EXPECT_EQ(draw_token(logits.data(), 4, {.temperature = 0}, 0, 0).token, 1);
  EXPECT_EQ(draw({.temperature = 0, .top_k = 3}, 9), 3);
}

TEST(Sampler, GreedyFindsTheFirstMaximumOfALargeVocabulary) {
  for (const size_t size : {1u, 15u, 1023u, 1024u, 1025u, 5003u}) {
    for (size_t at = 0; at < size; at += size / 7 + 1) {
      std::vector<float> logits(size);
      for (size_t i = 0; i < size; ++i) logits[i] = -static_cast<float>(i * 37 % 101) - 1;
      logits[at] = logits[size - 1] = 0.5f;  // a tie: the first one counts
      EXPECT_EQ(draw_token(logits.data(), static_cast<int64_t>(size), {.temperature = 0}, 0, 0).token, static_cast<int32_t>(at));
    }
  }
}

TEST(Sampler, DrawsFollowTheProbabilities) {
  for (const double temperature : {0.5, 1.0, 2.0}) {
    double total = 0;
    for (const float logit : kLogits) total += std::exp(logit / temperature);
    const auto counts = draws({.temperature = temperature}, 20000);
    for (int32_t token = 0; token < 6; ++token) {
      const double p = std::exp(kLogits[static_cast<size_t>(token)] / temperature) / total;
      const double share = counts.count(token) > 0 ? counts.at(token) / 20000.0 : 0.0;
      EXPECT_NEAR(share, p, 4 * std::sqrt(p * (1 - p) / 20000) + 1e-4) << token << " at " << temperature;
    }
  }
}

// Of a vocabulary of several blocks, in which the tail has most of the probability.
TEST(Sampler, DrawsReachEveryBlock) {
  std::vector<float> logits(5003);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i % 7) * 0.1f;
  std::vector<int> blocks(5);
  for (uint64_t i = 0; i < 4000; ++i) {
    const auto drawn = draw_token(logits.data(), 5003, {.temperature = 1}, i, 0);
    ASSERT_GE(drawn.token, 0);
    ASSERT_LT(drawn.token, 5003);
    ++blocks[static_cast<size_t>(drawn.token) / 1024];
  }
  for (size_t b = 0; b < 5; ++b) EXPECT_NEAR(blocks[b] / 4000.0, b < 4 ? 1024 / 5003.0 : 907 / 5003.0, 0.03) << b;
}

TEST(Sampler, LogProbabilitiesAreOfTheWholeDistributionAtTheTemperature) {
  for (const double temperature : {0.5, 1.0, 2.0}) {
    double total = 0;
    for (const float logit : kLogits) total += std::exp(logit / temperature);
    for (uint64_t i = 0; i < 50; ++i) {
      const auto drawn = draw_token(kLogits.data(), 6, {.temperature = temperature, .top_p = 0.9, .top_k = 4}, i, 0);
      EXPECT_NEAR(drawn.log_prob, kLogits[static_cast<size_t>(drawn.token)] / temperature - std::log(total), 1e-6);
    }
  }
  const auto greedy = draw_token(kLogits.data(), 6, {.temperature = 0, .log_probs = true}, 0, 0);
  EXPECT_NEAR(greedy.log_prob, std::log(0.634), 1e-3);
}

TEST(Sampler, TopKAllowsTheKLikeliest) {
  EXPECT_THAT(allowed({.temperature = 3, .top_k = 1}), testing::ElementsAre(3));
  EXPECT_THAT(allowed({.temperature = 3, .top_k = 3}), testing::ElementsAre(0, 3, 5));
  EXPECT_EQ(allowed({.temperature = 3, .top_k = 6}).size(), 6u);
  EXPECT_EQ(allowed({.temperature = 3, .top_k = 100}).size(), 6u);
  EXPECT_EQ(allowed({.temperature = 3}).size(), 6u);
}

// At temperature 1 the probabilities are 0.634, 0.233, 0.086, 0.032, 0.012, 0.004... of tokens 3, 0, 5, 1, 4, 2.
TEST(Sampler, TopPAllowsTheSmallestSetThatReachesP) {
  EXPECT_THAT(allowed({.temperature = 1, .top_p = 0.5}), testing::ElementsAre(3));
  EXPECT_THAT(allowed({.temperature = 1, .top_p = 0.64}), testing::ElementsAre(0, 3));
  EXPECT_THAT(allowed({.temperature = 1, .top_p = 0.9}), testing::ElementsAre(0, 3, 5));
  EXPECT_THAT(allowed({.temperature = 1, .top_p = 1e-9}), testing::ElementsAre(3));
}

TEST(Sampler, TopPIsTakenOfWhatTopKLeft) {
  // Of tokens 3 and 0 alone, token 3 has 0.731.
  EXPECT_THAT(allowed({.temperature = 1, .top_p = 0.7, .top_k = 2}), testing::ElementsAre(3));
  EXPECT_THAT(allowed({.temperature = 1, .top_p = 0.75, .top_k = 2}), testing::ElementsAre(0, 3));
}

TEST(Sampler, ADrawDependsOnSeedSequenceAndPosition) {
  const SamplingConfig config{.temperature = 2, .seed = 1};
  int by_sequence = 0, by_position = 0, by_seed = 0;
  for (uint64_t i = 0; i < 200; ++i) {
    EXPECT_EQ(draw(config, i, 3), draw(config, i, 3));
    by_sequence += draw(config, i) != draw(config, i + 1);
    by_position += draw(config, i, 0) != draw(config, i, 1);
    by_seed += draw(config, i) != draw({.temperature = 2, .seed = 2}, i);
  }
  EXPECT_GT(by_sequence, 50);
  EXPECT_GT(by_position, 50);
  EXPECT_GT(by_seed, 50);
}

TEST(SamplingConfig, MistakesNameTheOption) {
  const auto refusal = [](const SamplingConfig& config) { return message_of<ConfigError>([&] { config.validate(); }); };
  EXPECT_THAT(refusal({.temperature = -1}), testing::HasSubstr("--temperature -1 must be 0 (greedy) or more"));
  EXPECT_THAT(refusal({.temperature = NAN}), testing::HasSubstr("--temperature"));
  EXPECT_THAT(refusal({.top_p = 0}), testing::HasSubstr("--top-p 0 must be in (0, 1]"));
  EXPECT_THAT(refusal({.top_p = 1.5}), testing::HasSubstr("--top-p 1.5"));
  EXPECT_THAT(refusal({.top_k = -1}), testing::HasSubstr("--top-k -1"));
  EXPECT_THAT(refusal({.max_new_tokens = 0}), testing::HasSubstr("--max-new-tokens 0 must be at least 1"));
  EXPECT_NO_THROW(SamplingConfig{}.validate());
}

}  // namespace
}  // namespace tessera::inference
