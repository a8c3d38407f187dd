// A tiny model that makes rollouts, and what they are made of.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>

#include "rl/rollouts.h"
#include "tests/data/test_support.h"
#include "tests/support/tiny_model.h"

namespace tessera::rl {

/// A tiny model with a byte tokenizer, and prompts of which line 1 lacks what the reward reads and line 2 gives all completions the same
/// reward.
class RolloutFixture : public testing::Test {
 protected:
  RolloutFixture() : mesh_(*world_, {}), tokenizer_((data::test::write_model_folder(folder_), data::Tokenizer::load(folder_.path()))) {
    auto config = test::tiny_config();
    config["vocab_size"] = 265;
    model_ = test::tiny_model(config);
    folder_.write("prompts.jsonl", R"({"prompt": "abc", "answer": "[a-m]"}
{"prompt": "no answer here"}
{"prompt": "x", "answer": "^"}
{"prompt": "hello 12", "answer": "[a-z]"})");
    prompts_ = std::make_unique<Prompts>(std::vector<data::SourceConfig>{{(folder_ / "prompts.jsonl")}}, data::PromptReader{tokenizer_, nullptr, 265}, 60, 1);
    for (int32_t id = 0; id < 265; id += 9) stop_ids_.push_back(id);
    config_.rollouts_per_prompt = 4;
    config_.max_new_tokens = 8;
    config_.temperature = 1.5;
    config_.rewards = {{.name = "regex"}};
  }

  Phase make(int64_t first = 0, int64_t count = 4) {
    make_maker();
    return maker_->make({{{{model_.get(), 0}}, nullptr, nullptr}, &mesh_}, *prompts_, first, count, false);
  }
  void make_maker() { maker_ = std::make_unique<RolloutMaker>(config_, tokenizer_, stop_ids_, 5); }
  [[nodiscard]] bool stops(int32_t id) const { return std::find(stop_ids_.begin(), stop_ids_.end(), id) != stop_ids_.end(); }
  [[nodiscard]] std::string prompt_of(const Rollout& r) const { return prompts_->draw(r.prompt).text; }

  data::test::TemporaryFolder folder_;
  std::unique_ptr<parallel::Communicator> world_ = parallel::make_self_communicator();
  parallel::Mesh mesh_;
  data::Tokenizer tokenizer_;
  std::unique_ptr<model::CausalLM> model_;
  std::unique_ptr<Prompts> prompts_;
  std::vector<int32_t> stop_ids_;
  RlConfig config_;
  std::unique_ptr<RolloutMaker> maker_;
};

}  // namespace tessera::rl
