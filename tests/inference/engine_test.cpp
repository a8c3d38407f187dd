#include "inference/engine.h"

#include "core/error.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

namespace tessera::inference {
namespace {

using test::full_logits;
using test::tiny_config;
using test::tiny_model;

// Of different lengths, one of a single token.
const std::vector<std::vector<int32_t>> kPrompts = {{1, 2, 3, 4, 5}, {36}, {7, 7, 7}, {0, 10, 20, 30, 11, 21, 31, 12, 22}, {5, 4}};

nlohmann::json with(const std::string& key, const nlohmann::json& value) {
  nlohmann::json config = tiny_config();
  config[key] = value;
  return config;
}

double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  return ((actual.to(torch::kDouble) - expected).abs().max() / expected.abs().max()).item<double>();
}

std::vector<std::vector<int32_t>> one(const std::vector<int32_t>& prompt) { return std::vector<std::vector<int32_t>>(1, prompt); }

/// DeepSeek-V3's architecture with one key changed.
nlohmann::json deepseek_with(const std::string& key, const nlohmann::json& value) {
  nlohmann::json config = test::tiny_deepseek_config();
  config[key] = value;
  return config;
}

class CachedDecoding : public testing::TestWithParam<nlohmann::json> {};

// Prefills all prompts at once, then decodes 70 tokens each, so that sequences take several pages; every logit against a full
// forward. The second prompt's sequence begins behind another's.
TEST_P(CachedDecoding, GivesTheLogitsOfAFullForward) {
  const auto model = tiny_model(GetParam());
  const size_t count = kPrompts.size();
  Passes passes({{{model.get(), 0}}, nullptr, nullptr});
  std::vector<std::vector<int32_t>> sequences = kPrompts;
  Flat flat;
  std::vector<int64_t> numbers, last;
  for (const auto& prompt : kPrompts) {
    flat.add(prompt);
    numbers.push_back(passes.cache().open());
    last.push_back(static_cast<int64_t>(flat.tokens.size()) - 1);
  }
  at::Tensor logits = passes.logits(passes.prefill(flat, numbers).index_select(0, torch::tensor(last)));
  const int64_t parent = numbers[1];
  numbers[1] = passes.cache().open(parent);
  passes.cache().close(parent);
  for (int step = 0; step <= 70; ++step) {
    ASSERT_EQ(logits.size(0), static_cast<int64_t>(count));
    std::vector<int32_t> next;
    for (size_t i = 0; i < count; ++i) {
      if (step % 10 == 0) {
        const at::Tensor full = full_logits(*model, sequences[i]);
        EXPECT_LT(relative_error(logits[static_cast<int64_t>(i)], full[full.size(0) - 1]), 1e-5) << "sequence " << i << " step " << step;
      }
      EXPECT_EQ(passes.cache().length(numbers[i]), static_cast<int64_t>(sequences[i].size()));
      next.push_back(static_cast<int32_t>((7 * step + 11 * static_cast<int>(i)) % 37));
      sequences[i].push_back(next.back());
    }
    logits = passes.logits(passes.decode(next, numbers));
  }
}

INSTANTIATE_TEST_SUITE_P(Models, CachedDecoding,
                         testing::Values(tiny_config(), with("num_key_value_heads", 4), with("num_key_value_heads", 1), with("tie_word_embeddings", false),
                                         with("attention_bias", true), with("mlp_bias", true), with("model_type", "qwen3"),
                                         test::tiny_deepseek_config(), deepseek_with("q_lora_rank", nullptr), deepseek_with("rope_interleave", false),
                                         deepseek_with("num_experts_per_tok", 4)),
                         [](const auto& info) { return "variant_" + std::to_string(info.index); });

/// Greedy completion by full forwards.
std::vector<int32_t> reference_greedy(model::CausalLM& model, std::vector<int32_t> sequence, int count) {
  std::vector<int32_t> added;
  for (int i = 0; i < count; ++i) {
    const at::Tensor logits = full_logits(model, sequence);
    added.push_back(static_cast<int32_t>(logits[logits.size(0) - 1].argmax().item<int64_t>()));
    sequence.push_back(added.back());
  }
  return added;
}

TEST(Engine, GreedyTakesTheLikeliestTokens) {
  const auto model = tiny_model();
  const auto results = Engine(*model).generate(kPrompts, {.temperature = 0, .max_new_tokens = 12});
  ASSERT_EQ(results.size(), kPrompts.size());
  for (size_t i = 0; i < kPrompts.size(); ++i) {
    EXPECT_EQ(results[i].tokens, reference_greedy(*model, kPrompts[i], 12)) << i;
    EXPECT_EQ(results[i].finish_reason, "length");
  }
}

// What training rounds on the way to experts, generation does not.
TEST(Engine, TokensTravelInFloat32) {
  at::NoGradGuard no_grad;
  const auto exact = tiny_model(test::tiny_deepseek_config()), rounding = tiny_model(test::tiny_deepseek_config());
  using Kind = kernels::RowFormat::Kind;
  rounding->use_wire({{Kind::kFp8}, {Kind::kBfloat16}});
  EXPECT_FALSE(test::hidden_states(*rounding, kPrompts).equal(test::hidden_states(*exact, kPrompts)));
  const SamplingConfig sampling{.temperature = 0, .max_new_tokens = 12, .log_probs = true};
  const auto left = Engine(*rounding).generate(kPrompts, sampling), right = Engine(*exact).generate(kPrompts, sampling);
  for (size_t i = 0; i < kPrompts.size(); ++i) {
    EXPECT_EQ(left[i].tokens, right[i].tokens) << i;
    EXPECT_EQ(left[i].log_probs, right[i].log_probs) << i;
  }
}

std::vector<std::vector<int32_t>> many_prompts() {
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < 17; ++i) {
    prompts.emplace_back();
    for (int t = 0; t <= i * 5 % 11; ++t) prompts.back().push_back((3 * i + 5 * t) % 37);
  }
  return prompts;
}

TEST(Engine, RefilledSlotsGiveTheCompletionsOfOneByOne) {
  const auto model = tiny_model();
  const auto prompts = many_prompts();
  SamplingConfig sampling{.temperature = 0, .max_new_tokens = 15, .stop_ids = {4, 9, 17}};  // they end at different times
  const auto together = Engine(*model, {.max_batch = 3}).generate(prompts, sampling);
  int stopped = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto alone = Engine(*model, {.max_batch = 1}).generate(one(prompts[i]), sampling);
    EXPECT_EQ(together[i].tokens, alone[0].tokens) << i;
    EXPECT_EQ(together[i].finish_reason, alone[0].finish_reason) << i;
    stopped += together[i].finish_reason == "stop";
  }
  EXPECT_GT(stopped, 0);
}

TEST(Engine, SamplingDoesNotDependOnTheBatch) {
  const auto model = tiny_model();
  const auto prompts = many_prompts();
  const SamplingConfig sampling{.temperature = 0.8, .top_p = 0.95, .top_k = 20, .max_new_tokens = 10, .seed = 3};
  const auto one = Engine(*model, {.max_batch = 1}).generate(prompts, sampling, 100);
  for (const int64_t batch : {2, 5, 32}) {
    const auto many = Engine(*model, {.max_batch = batch}).generate(prompts, sampling, 100);
    for (size_t i = 0; i < prompts.size(); ++i) EXPECT_EQ(many[i].tokens, one[i].tokens) << i << " of a batch of " << batch;
  }
  // A share of the prompts, numbered as within the whole, as the ranks of a job do.
  const std::vector<std::vector<int32_t>> tail(prompts.begin() + 10, prompts.end());
  const auto rest = Engine(*model, {.max_batch = 4}).generate(tail, sampling, 110);
  for (size_t i = 0; i < tail.size(); ++i) EXPECT_EQ(rest[i].tokens, one[i + 10].tokens);
  SamplingConfig other = sampling;
  other.seed = 4;
  int differ = 0;
  const auto reseeded = Engine(*model, {.max_batch = 4}).generate(prompts, other, 100);
  for (size_t i = 0; i < prompts.size(); ++i) differ += reseeded[i].tokens != one[i].tokens;
  EXPECT_GT(differ, 10);
}

// The MTP module of a random model guesses right now and then.
TEST(Engine, DraftsChangeNothingButThePasses) {
  const auto model = tiny_model(test::tiny_deepseek_config());
  const auto prompts = many_prompts();
  for (const SamplingConfig& sampling : {SamplingConfig{.temperature = 0, .max_new_tokens = 20, .stop_ids = {4, 9}},
                                         SamplingConfig{.temperature = 1.5, .max_new_tokens = 20, .seed = 5}}) {
    Engine with(*model, {.max_batch = 4}), without(*model, {.max_batch = 4, .draft = false});
    const auto drafted = with.generate(prompts, sampling), plain = without.generate(prompts, sampling);
    for (size_t i = 0; i < prompts.size(); ++i) {
      EXPECT_EQ(drafted[i].tokens, plain[i].tokens) << i;
      EXPECT_EQ(drafted[i].finish_reason, plain[i].finish_reason) << i;
    }
    EXPECT_GT(with.drafts().made, 0);
    EXPECT_GT(with.drafts().accepted, 0);
    EXPECT_LT(with.drafts().accepted, with.drafts().made);
    EXPECT_EQ(without.drafts().made, 0);
  }
}

TEST(Engine, AStopIdEndsTheTextAndIsNotPartOfIt) {
  const auto model = tiny_model();
  const auto free = Engine(*model).generate(one(kPrompts[0]), {.temperature = 0, .max_new_tokens = 8})[0].tokens;
  const int32_t stop = free[4];
  const auto first = static_cast<size_t>(std::find(free.begin(), free.end(), stop) - free.begin());
  const auto stopped = Engine(*model).generate(one(kPrompts[0]), {.temperature = 0, .max_new_tokens = 8, .stop_ids = {stop}})[0];
  EXPECT_EQ(stopped.finish_reason, "stop");
  EXPECT_EQ(stopped.tokens, std::vector<int32_t>(free.begin(), free.begin() + static_cast<std::ptrdiff_t>(first)));
}

TEST(Engine, ASequenceEndsAtTheModelsLength) {
  const auto model = tiny_model(with("max_position_embeddings", 12));
  const auto results = Engine(*model).generate(std::vector<std::vector<int32_t>>{{1, 2, 3}, std::vector<int32_t>(11, 5), std::vector<int32_t>(12, 5), std::vector<int32_t>(13, 5)},
                                               {.temperature = 0, .max_new_tokens = 100});
  EXPECT_EQ(results[0].tokens.size(), 9u);
  EXPECT_EQ(results[1].tokens.size(), 1u);
  EXPECT_EQ(results[2].tokens.size(), 1u);  // what follows the last position is sampled, and goes nowhere
  EXPECT_TRUE(results[3].tokens.empty());
  for (const auto& result : results) EXPECT_EQ(result.finish_reason, "length");
}

TEST(Engine, TellsProgressAndRefusesAnEmptyPrompt) {
  const auto model = tiny_model();
  std::vector<int64_t> heard;
  (void)Engine(*model, {.max_batch = 2}).generate(kPrompts, {.temperature = 0, .max_new_tokens = 2}, 0, [&](int64_t done) { heard.push_back(done); });
  EXPECT_THAT(heard, testing::ElementsAre(1, 2, 3, 4, 5));
  EXPECT_TRUE(Engine(*model).generate(std::vector<Request>{}, {}).empty());
  EXPECT_THROW((void)Engine(*model).generate(one({}), {}), InternalError);
}

class Invariance : public testing::TestWithParam<nlohmann::json> {};

/// Groups of samples of prompts of many lengths.
std::vector<Request> groups() {
  std::vector<Request> requests;
  uint64_t number = 0;
  for (int i = 0; i < 7; ++i) {
    requests.emplace_back();
    for (int t = 0; t < 1 + i * 9 % 40; ++t) requests.back().prompt.push_back((3 * i + 5 * t) % 37);
    for (int s = 0; s < 1 + i; ++s) requests.back().samples.push_back(number++);
  }
  return requests;
}

// The same bits: of tokens and of log-probabilities.
TEST_P(Invariance, WhatIsSampledDependsOnPromptAndNumberAlone) {
  const auto model = tiny_model(GetParam());
  const SamplingConfig sampling{.temperature = 1.1, .max_new_tokens = 45, .seed = 3, .stop_ids = {4}, .log_probs = true};
  const auto requests = groups();
  const auto all = Engine(*model, {.max_batch = 64, .draft = false}).generate(requests, sampling);
  for (const int64_t batch : {1, 2, 5, 17}) {
    const auto some = Engine(*model, {.max_batch = batch, .draft = false}).generate(requests, sampling);
    ASSERT_EQ(some.size(), all.size());
    for (size_t i = 0; i < all.size(); ++i) {
      EXPECT_EQ(some[i].tokens, all[i].tokens) << i << " of " << batch;
      EXPECT_EQ(some[i].log_probs, all[i].log_probs) << i << " of " << batch;
      EXPECT_EQ(some[i].stop_id, all[i].stop_id);
    }
  }
  // In another order, and each sample by itself.
  std::vector<Request> apart;
  for (auto request = requests.rbegin(); request != requests.rend(); ++request)
    for (auto sample = request->samples.rbegin(); sample != request->samples.rend(); ++sample) apart.push_back({request->prompt, {*sample}});
  const auto reversed = Engine(*model, {.max_batch = 9, .draft = false}).generate(apart, sampling);
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(reversed[all.size() - 1 - i].tokens, all[i].tokens) << i;
    EXPECT_EQ(reversed[all.size() - 1 - i].log_probs, all[i].log_probs) << i;
  }
}

// log_probs at the temperature, the stop id's included.
TEST_P(Invariance, LogProbabilitiesAreThoseOfAFullForward) {
  const auto model = tiny_model(GetParam());
  const SamplingConfig sampling{.temperature = 0.8, .max_new_tokens = 30, .seed = 1, .stop_ids = {4, 5, 6}, .log_probs = true};
  const auto requests = groups();
  const auto results = Engine(*model).generate(requests, sampling);
  size_t i = 0, stopped = 0;
  for (const Request& request : requests) {
    for (size_t s = 0; s < request.samples.size(); ++s, ++i) {
      std::vector<int32_t> tokens = request.prompt, made = results[i].tokens;
      if (results[i].stop_id >= 0) made.push_back(results[i].stop_id);
      stopped += results[i].stop_id >= 0;
      ASSERT_EQ(results[i].log_probs.size(), made.size());
      tokens.insert(tokens.end(), made.begin(), made.end());
      const at::Tensor full = (full_logits(*model, tokens) / 0.8).log_softmax(-1);
      for (size_t t = 0; t < made.size(); ++t)
        EXPECT_NEAR(results[i].log_probs[t], full[static_cast<int64_t>(request.prompt.size() + t) - 1][made[t]].item<double>(), 2e-5);
    }
  }
  EXPECT_GT(stopped, 3u);
}

INSTANTIATE_TEST_SUITE_P(Models, Invariance, testing::Values(tiny_config(), with("model_type", "qwen3"), test::tiny_deepseek_config()),
                         [](const auto& info) { return "variant_" + std::to_string(info.index); });

TEST(Engine, ScoresAreTheLogProbabilitiesOfAFullForward) {
  const auto model = tiny_model(with("tie_word_embeddings", false));
  const auto scores = Engine(*model).score(kPrompts);
  ASSERT_EQ(scores.size(), kPrompts.size());
  for (size_t i = 0; i < kPrompts.size(); ++i) {
    ASSERT_EQ(scores[i].size(), kPrompts[i].size());
    EXPECT_TRUE(std::isnan(scores[i][0]));
    const at::Tensor log_probs = full_logits(*model, kPrompts[i]).log_softmax(-1);
    for (size_t t = 1; t < kPrompts[i].size(); ++t)
      EXPECT_NEAR(scores[i][t], log_probs[static_cast<int64_t>(t) - 1][kPrompts[i][t]].item<double>(), 1e-5) << i << " " << t;
  }
}

/// What the routers choose in a pass over whole sequences, [T, K].
moe::LayerChoices choices_of(model::CausalLM& model, std::vector<int32_t> sequence) {
  at::NoGradGuard no_grad;
  std::vector<int32_t> positions(sequence.size());
  std::iota(positions.begin(), positions.end(), 0);
  moe::LayerChoices choices;
  (void)model.hidden_states(int_tensor(sequence), int_tensor(positions), {{0, static_cast<int64_t>(sequence.size()), 0, -1}}, {.record = &choices});
  return choices;
}

TEST(Engine, RecordsTheExpertsOfPromptsAndCompletions) {
  auto config = test::tiny_deepseek_config();
  config["num_hidden_layers"] = 3;
  const auto model = test::tiny_model(config);
  const std::vector<Request> requests = {{{1, 2, 3, 4, 5}, {0, 1, 2}}, {{7, 8}, {3, 4}}, {{9, 10, 11}, {5}}};
  const SamplingConfig sampling{.temperature = 1.5, .max_new_tokens = 7, .seed = 4, .stop_ids = {3, 12, 20}};
  for (const auto& c : Engine(*model, {.draft = false}).generate(requests, sampling)) EXPECT_TRUE(c.experts.empty() && !c.prompt_experts);
  for (const int64_t batch : {1, 4, 16}) {
    const auto results = Engine(*model, {.max_batch = batch, .draft = false, .record_experts = true}).generate(requests, sampling);
    size_t i = 0;
    for (const Request& request : requests) {
      for (size_t s = 0; s < request.samples.size(); ++s, ++i) {
        const Completion& c = results[i];
        EXPECT_EQ(c.prompt_experts, results[i - s].prompt_experts) << "shared by the group";
        auto sequence = request.prompt;
        sequence.insert(sequence.end(), c.tokens.begin(), c.tokens.end());
        if (c.stop_id >= 0) sequence.push_back(c.stop_id);
        ASSERT_EQ(c.experts.size(), 2u);
        for (const auto& [layer, whole] : choices_of(*model, sequence)) {
          std::vector<int16_t> expected(whole.const_data_ptr<int32_t>(), whole.const_data_ptr<int32_t>() + whole.numel());
          std::vector<int16_t> recorded = c.prompt_experts->at(layer);
          recorded.insert(recorded.end(), c.experts.at(layer).begin(), c.experts.at(layer).end());
          std::fill(expected.end() - whole.size(1), expected.end(), int16_t{-1});  // the last token was never fed
          EXPECT_EQ(recorded, expected) << "layer " << layer << " of completion " << i;
        }
      }
    }
  }
}

}  // namespace
}  // namespace tessera::inference
