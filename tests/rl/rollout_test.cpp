// From completions that a small model draws to the rows and denominators of a training step.
#include "rl/rollout.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <fstream>
#include <numeric>

#include "rl/choices.h"
#include "rl/rollouts.h"
#include "tests/rl/rollout_fixture.h"
#include "trainer/model_batch.h"

namespace tessera::rl {
namespace {

using testing::ElementsAre;

Rollout rollout(int64_t prompt, int64_t index, const std::vector<int32_t>& prompt_tokens, const std::vector<int32_t>& tokens, double advantage) {
  std::vector<float> log_probs;
  for (const int32_t token : tokens) log_probs.push_back(-0.01f * static_cast<float>(token));
  return {prompt, index, prompt_tokens, tokens, log_probs, true, 0, advantage, true, true, 0};
}

/// Two prompts with three completions and two.
std::vector<Rollout> five() {
  return {rollout(0, 0, {1, 2, 3}, {10, 11}, 1), rollout(0, 1, {1, 2, 3}, {20}, 2), rollout(0, 2, {1, 2, 3}, {30, 31, 32}, 3),
          rollout(1, 0, {4, 5}, {40, 41}, 4), rollout(1, 1, {4, 5}, {50}, 5)};
}

TEST(RolloutBatch, SharesAPromptWithinAMicroBatchOnly) {
  const RolloutBatch batch = make_rollout_batch(five(), {4, 2}, 9);
  ASSERT_EQ(batch.batch.micro_batches.size(), 2u);
  EXPECT_THAT(batch.batch.micro_batches[0].tokens, ElementsAre(1, 2, 3, 10, 11, 20, 30, 31, 32, 4, 5, 40, 41));
  EXPECT_THAT(batch.batch.micro_batches[1].tokens, ElementsAre(4, 5, 50));
  EXPECT_EQ(batch.batch.num_tokens, 16);
  EXPECT_EQ(batch.batch.num_targets, 9);
  EXPECT_EQ(batch.batch.step, 9);
}

TEST(RolloutBatch, HasCompletionsBehindTheirPromptAsItsChildren) {
  const RolloutBatch batch = make_rollout_batch(five(), {5, 1}, 0);
  const auto& micro = batch.batch.micro_batches[0];
  EXPECT_THAT(micro.positions, ElementsAre(0, 1, 2, 3, 4, 3, 3, 4, 5, 0, 1, 2, 3, 2));
  std::vector<int64_t> parents, starts;
  for (const auto& segment : micro.segments) {
    parents.push_back(segment.parent);
    starts.push_back(segment.start);
  }
  EXPECT_THAT(parents, ElementsAre(-1, 0, 0, 0, -1, 4, 4));
  EXPECT_THAT(starts, ElementsAre(0, 3, 5, 6, 9, 11, 13));
}

TEST(RolloutBatch, TargetsAreTheCompletionsFromTheirPromptsLastTokenOn) {
  const RolloutBatch batch = make_rollout_batch(five(), {5, 1}, 0);
  const auto& micro = batch.batch.micro_batches[0];
  EXPECT_THAT(micro.targets, ElementsAre(10, 11, 20, 30, 31, 32, 40, 41, 50));
  EXPECT_THAT(micro.target_sources, ElementsAre(2, 3, 2, 2, 6, 7, 10, 11, 10));
}

TEST(RolloutBatch, GivesTheObjectiveEachCompletionsOwnValues) {
  const RolloutBatch batch = make_rollout_batch(five(), {3, 2}, 0);
  EXPECT_THAT(batch.policies[0].lengths, ElementsAre(2, 1, 3));
  EXPECT_THAT(batch.policies[0].advantages, ElementsAre(1, 2, 3));
  EXPECT_THAT(batch.policies[0].rollout, testing::Pointwise(testing::FloatEq(), {-0.1f, -0.11f, -0.2f, -0.3f, -0.31f, -0.32f}));
  EXPECT_THAT(batch.policies[1].lengths, ElementsAre(2, 1));
  EXPECT_THAT(batch.policies[1].advantages, ElementsAre(4, 5));
}

TEST(RolloutBatch, LeavesOutWhatDoesNotTrain) {
  auto rollouts = five();
  for (const size_t i : {0u, 1u, 2u, 4u}) rollouts[i].trains = false;
  const RolloutBatch batch = make_rollout_batch(rollouts, {2, 2}, 0);
  EXPECT_THAT(batch.batch.micro_batches[0].tokens, ElementsAre(4, 5, 40, 41));
  EXPECT_THAT(batch.policies[0].advantages, ElementsAre(4));
  EXPECT_TRUE(batch.batch.micro_batches[1].tokens.empty());
  EXPECT_TRUE(batch.policies[1].lengths.empty());
}

TEST(RolloutBatch, LeavesNoneBehind) { EXPECT_THROW((void)make_rollout_batch(five(), {2, 2}, 0), InternalError); }

TEST(RolloutBatch, OfEqualPromptsDrawnTwiceKeepsThemApart) {
  const std::vector<Rollout> twice = {rollout(0, 0, {1, 2}, {10}, 1), rollout(7, 0, {1, 2}, {11}, 1)};
  EXPECT_THAT(make_rollout_batch(twice, {2, 1}, 0).batch.micro_batches[0].tokens, ElementsAre(1, 2, 10, 1, 2, 11));
}

TEST(Rollouts, SurviveACheckpoint) {
  auto rollouts = five();
  rollouts[1].usable = rollouts[2].trains = rollouts[3].stopped = false;
  rollouts[4].place = 12;
  rollouts[4].reward = 0.1;
  const auto back = unpack_rollouts(pack_rollouts(rollouts));
  ASSERT_EQ(back.size(), rollouts.size());
  for (size_t i = 0; i < back.size(); ++i) {
    const Rollout &a = back[i], &b = rollouts[i];
    EXPECT_EQ(std::tie(a.prompt, a.index, a.prompt_tokens, a.tokens, a.log_probs, a.stopped, a.reward, a.advantage, a.usable, a.trains, a.place),
              std::tie(b.prompt, b.index, b.prompt_tokens, b.tokens, b.log_probs, b.stopped, b.reward, b.advantage, b.usable, b.trains, b.place));
  }
}

class RolloutMakerTest : public RolloutFixture {};

TEST_F(RolloutMakerTest, CompletionsHoldTheStopIdThatEndedThem) {
  const Phase phase = make();
  int64_t stopped = 0, tokens = 0;
  for (const Rollout& r : phase.rollouts) {
    ASSERT_EQ(r.log_probs.size(), r.tokens.size());
    EXPECT_EQ(r.stopped, stops(r.tokens.back())) << r.place;
    for (size_t t = 0; t + 1 < r.tokens.size(); ++t) EXPECT_FALSE(stops(r.tokens[t]));
    EXPECT_LE(r.tokens.size(), 8u);
    EXPECT_TRUE(r.stopped || r.tokens.size() == 8);
    stopped += r.stopped ? 1 : 0;
    tokens += static_cast<int64_t>(r.tokens.size());
  }
  EXPECT_GT(stopped, 2);
  EXPECT_LT(stopped, 16);
  EXPECT_EQ(phase.statistics.truncated, 16 - stopped);
  EXPECT_EQ(phase.statistics.tokens, tokens);
}

TEST_F(RolloutMakerTest, LogProbabilitiesAreThoseOfTraining) {
  config_.kl_coefficient = 1;  // all train
  prompts_ = std::make_unique<Prompts>(std::vector<data::SourceConfig>{{folder_.write("p.jsonl", R"({"prompt": "x", "answer": "^"}
{"prompt": "hello 12", "answer": "[a-z]"})")}}, data::PromptReader{tokenizer_, nullptr, 265}, 60, 1);
  const Phase phase = make(0, 2);
  const RolloutBatch batch = make_rollout_batch(phase.rollouts, {3, 3}, 0);
  size_t compared = 0;
  // Each completion alone behind its prompt, in double.
  for (const Rollout& r : phase.rollouts) {
    std::vector<int32_t> sequence = r.prompt_tokens;
    sequence.insert(sequence.end(), r.tokens.begin(), r.tokens.end());
    const at::Tensor log_probs = (test::full_logits(*model_, sequence) / config_.temperature).log_softmax(1);
    for (size_t t = 0; t < r.tokens.size(); ++t)
      EXPECT_NEAR(r.log_probs[t], log_probs[static_cast<int64_t>(r.prompt_tokens.size() + t) - 1][r.tokens[t]].item<double>(), 1e-4);
  }
  // And as they are laid out for training.
  for (size_t m = 0; m < batch.policies.size(); ++m) {
    const auto& micro = batch.batch.micro_batches[m];
    at::NoGradGuard no_grad;
    model::CausalLM& model = *model_;
    const at::Tensor x = model.hidden_states(torch::tensor(micro.tokens, torch::kInt), torch::tensor(micro.positions, torch::kInt), micro.segments).to(torch::kDouble);
    at::Tensor norm, head;
    for (const auto& weight : model.weights()) {
      if (weight.name == "model.norm.weight") norm = weight.view().to(torch::kDouble);
      if (weight.name == "model.embed_tokens.weight") head = weight.view().to(torch::kDouble);
    }
    const at::Tensor logits = (x * (x.pow(2).mean(-1, true) + model.config().rms_norm_eps).rsqrt() * norm).mm(head.t());
    const at::Tensor log_probs = (logits / config_.temperature).log_softmax(1);
    ASSERT_EQ(micro.targets.size(), batch.policies[m].rollout.size());
    for (size_t i = 0; i < micro.targets.size(); ++i, ++compared)
      EXPECT_NEAR(batch.policies[m].rollout[i], log_probs[micro.target_sources[i]][micro.targets[i]].item<double>(), 1e-4);
  }
  EXPECT_GT(compared, 10u);
}

TEST_F(RolloutMakerTest, WithoutAdvantageNothingTrainsButDenominatorsStay) {
  const Phase phase = make();
  ASSERT_EQ(phase.rollouts.size(), 16u);
  bool mixed = false;
  for (const Rollout& r : phase.rollouts) {
    const int64_t counted = phase.tokens[static_cast<size_t>(r.place)];
    if (prompt_of(r) == "no answer here") {  // no reward: in no denominator
      EXPECT_FALSE(r.usable || r.trains);
      EXPECT_EQ(counted, 0);
      EXPECT_EQ(r.advantage, 0);
      continue;
    }
    EXPECT_TRUE(r.usable);
    EXPECT_EQ(counted, static_cast<int64_t>(r.tokens.size())) << prompt_of(r);
    EXPECT_EQ(r.trains, r.advantage != 0);
    EXPECT_FALSE(r.trains && prompt_of(r) == "x");
    mixed = mixed || r.trains;
  }
  EXPECT_TRUE(mixed) << "no group had different rewards";
  EXPECT_EQ(phase.statistics.usable, 12);
  EXPECT_EQ(maker_->failures()[0].count, 4);
}

TEST_F(RolloutMakerTest, WithAKlTermEveryUsableCompletionTrains) {
  config_.kl_coefficient = 0.1;
  for (const Rollout& r : make().rollouts) EXPECT_EQ(r.trains, r.usable);
  config_.kl_coefficient = 0;
  config_.skip_zero_advantage = false;
  for (const Rollout& r : make().rollouts) EXPECT_EQ(r.trains, r.usable);
}

TEST_F(RolloutMakerTest, MaskedCompletionsTeachNothingButAreCompared) {
  const Phase whole = make();
  config_.mask_truncated = true;
  config_.skip_zero_advantage = false;
  const Phase masked = make();
  int64_t cut = 0;
  for (size_t i = 0; i < masked.rollouts.size(); ++i) {
    const Rollout& r = masked.rollouts[i];
    EXPECT_EQ(r.tokens, whole.rollouts[i].tokens);
    EXPECT_EQ(r.advantage, whole.rollouts[i].advantage);
    EXPECT_EQ(r.trains, r.usable && r.stopped);
    EXPECT_EQ(masked.tokens[static_cast<size_t>(r.place)], r.trains ? static_cast<int64_t>(r.tokens.size()) : 0);
    cut += r.stopped ? 0 : 1;
  }
  EXPECT_GT(cut, 0);
}

TEST_F(RolloutMakerTest, AdvantagesAreOfEachPromptsOwnCompletions) {
  config_.scale_advantage = false;
  const Phase phase = make();
  for (size_t g = 0; g < 16; g += 4) {
    double mean = 0;
    for (size_t i = g; i < g + 4; ++i) {
      EXPECT_EQ(phase.rollouts[i].prompt, phase.rollouts[g].prompt);
      EXPECT_EQ(phase.rollouts[i].place, static_cast<int64_t>(i));
      mean += phase.rollouts[i].reward / 4;
    }
    for (size_t i = g; i < g + 4; ++i) EXPECT_NEAR(phase.rollouts[i].advantage, phase.rollouts[i].usable ? phase.rollouts[i].reward - mean : 0, 1e-12);
  }
  // dr_grpo scales never.
  config_.scale_advantage = true;
  config_.objective = "dr_grpo";
  const Phase dr = make();
  for (size_t i = 0; i < 16; ++i) EXPECT_EQ(dr.rollouts[i].advantage, phase.rollouts[i].advantage);
}

TEST_F(RolloutMakerTest, DynamicSamplingReplacesGroupsThatSayNothing) {
  config_.dynamic_sampling = true;
  config_.max_resamples = 30;
  const Phase phase = make(0, 2);
  ASSERT_EQ(phase.rollouts.size(), 8u);
  for (size_t g = 0; g < 8; g += 4)
    EXPECT_TRUE(std::any_of(phase.rollouts.begin() + static_cast<std::ptrdiff_t>(g), phase.rollouts.begin() + static_cast<std::ptrdiff_t>(g) + 4,
                            [](const Rollout& r) { return r.advantage != 0; }));
  EXPECT_GT(phase.statistics.resamples, 0);
  EXPECT_EQ(phase.next_prompt, phase.statistics.prompts_drawn);
  EXPECT_EQ(phase.statistics.rollouts, 8);  // those of the first try
}

TEST_F(RolloutMakerTest, TrainingTakesTheExpertsOfTheRollouts) {
  auto config = test::tiny_deepseek_config();
  config["vocab_size"] = 265;
  config["num_hidden_layers"] = 3;
  model_ = test::tiny_model(config);
  config_.routing_replay = true;
  const Phase phase = make();
  for (const Rollout& r : phase.rollouts) EXPECT_EQ(r.prompt_experts != nullptr, r.trains) << r.place;
  const RolloutBatch batch = make_rollout_batch(phase.rollouts, {5, 4}, 0);

  // Other weights than those that chose; what recomputes does not record, and must not choose anew either.
  for (const auto& weight : model_->weights()) weight.view().add_(at::randn_like(weight.view()), 0.3);
  int64_t same = 0, chosen = 0;
  for (const auto& micro : batch.batch.micro_batches) {
    if (micro.tokens.empty()) continue;
    const auto tensors = trainer::to_model_batch(micro, 1);
    ASSERT_EQ(tensors.experts->size(), 2u);
    moe::LayerChoices used, live;
    (void)model_->hidden_states(tensors.tokens, tensors.positions, micro.segments, {.imposed = tensors.experts.get(), .record = &used});
    (void)model_->hidden_states(tensors.tokens, tensors.positions, micro.segments, {.record = &live});
    for (const auto& [layer, rows] : micro.experts) {
      const int32_t* taken = used.at(layer).const_data_ptr<int32_t>();
      int64_t free = 0;
      for (size_t j = 0; j < rows.size(); ++j, ++chosen) {
        free += rows[j] < 0 ? 1 : 0;
        EXPECT_TRUE(taken[j] == rows[j] || rows[j] < 0);
        same += taken[j] == live.at(layer).const_data_ptr<int32_t>()[j] ? 1 : 0;
      }
      int64_t completions = 0;
      for (const auto& segment : micro.segments) completions += segment.parent >= 0 ? 1 : 0;
      EXPECT_EQ(free, completions * 2) << "the last token of a completion chooses";
    }
  }
  EXPECT_GT(chosen, 100);
  EXPECT_LT(same, chosen * 9 / 10) << "the weights were to be others";
}

TEST(Choices, OfAPhaseArePackedWithEachPromptOnce) {
  auto rollouts = five();
  rollouts[3].trains = false;
  const auto prompts = {std::make_shared<const ExpertChoices>(ExpertChoices{{4, {1, 2, 3, 4, 5, 6}}, {7, {9, 9, 9, 9, 9, 9}}}),
                        std::make_shared<const ExpertChoices>(ExpertChoices{{4, {7, 8, 9, 10}}, {7, {0, 0, 0, 0}}})};
  for (auto& r : rollouts) {
    if (!r.trains) continue;
    r.prompt_experts = prompts.begin()[r.prompt];
    for (const int64_t layer : {4, 7}) r.experts[layer].assign(2 * r.tokens.size(), static_cast<int16_t>(layer * r.tokens[0]));
  }
  const ExpertChoices lists = pack_choices(rollouts);
  EXPECT_EQ(lists.at(4).size(), static_cast<size_t>(2 * count_packed(rollouts)));
  EXPECT_EQ(count_packed(rollouts), 3 + 2 + 1 + 3 + 2 + 1);
  auto back = five();
  back[3].trains = false;
  unpack_choices(lists, 2, back);
  for (size_t i = 0; i < back.size(); ++i) {
    EXPECT_EQ(back[i].experts, rollouts[i].experts) << i;
    ASSERT_EQ(back[i].prompt_experts != nullptr, back[i].trains);
    EXPECT_TRUE(!back[i].trains || *back[i].prompt_experts == *rollouts[i].prompt_experts) << i;
  }
  EXPECT_EQ(back[0].prompt_experts, back[2].prompt_experts);
  EXPECT_TRUE(pack_choices(five()).empty());
}

}  // namespace
}  // namespace tessera::rl
