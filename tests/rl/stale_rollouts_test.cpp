// The thread that makes rollouts beside training.
#include "rl/stale_rollouts.h"

#include "core/error.h"
#include "model/lora.h"
#include "tests/rl/rollout_fixture.h"

namespace tessera::rl {
namespace {

class StaleRolloutsTest : public RolloutFixture {
 protected:
  StaleRolloutsTest() { config_.rewards.front().pattern = "[a-m]"; }

  void load(bool lora) {
    auto config = test::tiny_deepseek_config();
    config["vocab_size"] = 265;
    live_ = std::make_unique<trainer::Stages>(model::ModelConfig::from_json(config, "tiny"), mesh_, parallel::ParallelConfig{}, false);
    if (lora) {
      trainer_.model.lora = model::LoraConfig{.r = 2, .target_modules = {"o_proj"}};
      (void)model::add_adapters(*live_->models().front(), *trainer_.model.lora, 1);
    }
    live_->make_trainable(lora);
    live_->models().front()->initialize(1);
    change(lora);
    make_maker();
    stale_ = std::make_unique<StaleRollouts>(*live_, trainer_, *world_, *maker_, *prompts_);
  }
  /// What training would change.
  void change(bool lora) const {
    at::NoGradGuard no_grad;
    for (const auto& weight : live_->weights(lora))
      if (weight.parameter->trainable() || weight.buffer) weight.view().add_(at::randn(weight.shape), 0.3);
  }
  Phase by_live() { return maker_->make(policy_of(*live_, mesh_), *prompts_, 0, 4, false); }

  static void expect_same(const Phase& a, const Phase& b) {
    ASSERT_EQ(a.rollouts.size(), b.rollouts.size());
    for (size_t i = 0; i < a.rollouts.size(); ++i) {
      EXPECT_EQ(a.rollouts[i].tokens, b.rollouts[i].tokens) << i;
      EXPECT_EQ(a.rollouts[i].log_probs, b.rollouts[i].log_probs) << i;
    }
  }

  trainer::TrainerConfig trainer_;
  std::unique_ptr<trainer::Stages> live_;
  std::unique_ptr<StaleRollouts> stale_;
};

TEST_F(StaleRolloutsTest, AreThoseOfTheWeightsAtTheStart) {
  for (const bool lora : {false, true}) {
    load(lora);
    for (int round = 0; round < 2; ++round) {
      const Phase expected = by_live();
      stale_->start(0, 4, false);
      EXPECT_TRUE(stale_->running());
      change(lora);
      const Phase phase = stale_->finish();
      EXPECT_FALSE(stale_->running());
      EXPECT_TRUE(phase.stale && !expected.stale);
      expect_same(phase, expected);
      EXPECT_NE(by_live().statistics.digest, expected.statistics.digest) << "training changed nothing";
    }
    stale_.reset();
    trainer_.model.lora.reset();
  }
}

TEST_F(StaleRolloutsTest, ErrorsOfTheThreadAreThrownWhereItIsJoined) {
  load(false);
  config_.generation_batch = 0;
  stale_->start(0, 4, false);
  EXPECT_THROW((void)stale_->finish(), InternalError);
  stale_->start(0, 4, false);
  EXPECT_THROW(
      while (true) {
        stale_->check();
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      },
      InternalError);
  EXPECT_FALSE(stale_->running());
  config_.generation_batch = 8;
  stale_->start(0, 4, false);
  EXPECT_EQ(stale_->finish().rollouts.size(), 16u);
}

TEST_F(StaleRolloutsTest, AreGivenUpByTheDestructor) {
  load(false);
  stale_->start(0, 100000, false);  // minutes
  stale_.reset();
}

}  // namespace
}  // namespace tessera::rl
