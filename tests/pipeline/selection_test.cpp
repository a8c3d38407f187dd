#include "pipeline/selection.h"

#include <gmock/gmock.h>

#include <fstream>

#include "core/error.h"
#include "core/file.h"
#include "data/tokenizer.h"
#include "tests/support/support.h"

namespace tessera::pipeline {
namespace {

using nlohmann::json;
using test::message_of;
using test::TemporaryFolder;
using testing::HasSubstr;

/// A vocabulary of the bytes that JSON spells as they are.
void write_tokenizer(const std::filesystem::path& folder) {
  json vocabulary;
  int id = 0;
  for (char c = '!'; c <= '~'; ++c) vocabulary[std::string(1, c)] = id++;
  vocabulary["\u0120"] = id++;
  write_file_atomically(folder / "tokenizer.json",
                        json{{"added_tokens", json::array()}, {"normalizer", nullptr},
                             {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
                             {"decoder", {{"type", "ByteLevel"}}},
                             {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", json::array()}}}}.dump());
  write_file_atomically(folder / "tokenizer_config.json", "{}");
}

class SelectionTest : public testing::Test {
 protected:
  SelectionTest() {
    write_tokenizer(folder_.path());
    tokenizer_.emplace(data::Tokenizer::load(folder_.path()));
    write_file_atomically(folder_.path() / "p.jsonl", "{\"prompt\": \"1 + 1\", \"answer\": \"2\"}\n{\"prompt\": \"2 + 2\", \"answer\": \"4\"}\n");
    const data::PromptReader reader{*tokenizer_, nullptr, 1000};
    prompts_.emplace(std::vector<data::SourceConfig>{{.path = (folder_.path() / "p.jsonl").string()}}, reader, 100, 0);
  }

  TemporaryFolder folder_;
  std::optional<data::Tokenizer> tokenizer_;
  std::optional<rl::Prompts> prompts_;
};

TEST_F(SelectionTest, KeepsWhatIsGoodAndCountsTheRest) {
  const std::vector<Candidate> candidates = {
      {0, 0, " 2", 1, true, true}, {0, 1, "2 ", 1, true, true},  {0, 2, " it is 2", 1, true, true}, {0, 3, " also 2", 1, true, true},
      {1, 0, " 5", 0, true, true}, {1, 1, " 4", 1, true, false}, {1, 2, " 4", 1, false, true},      {1, 3, " 4", 1, true, true},
  };
  const auto selection = select(candidates, *prompts_, {.keep_per_prompt = 2, .minimum_reward = 1, .readable = true, .mix = {}, .limit = 0}, false, 0);
  EXPECT_EQ(selection.counts, json::parse(R"({"sampled": 8, "prompts": 2, "kept": 3, "prompts_kept": 2,
      "dropped": {"duplicate": 1, "more_than_keep_per_prompt": 1, "low_reward": 1, "cut_off": 1, "reward_failed": 1}})"));
  ASSERT_EQ(selection.lines.size(), 3u);
  const json last = json::parse(selection.lines.back());
  EXPECT_EQ(last["completion"], " 4");
  EXPECT_EQ(last["prompt"], prompts_->draw(1).sample["prompt"]);
  EXPECT_EQ(last["reward"], 1.0);
}

TEST_F(SelectionTest, ChatsGetTheCompletionAsTheAssistantsTurn) {
  const auto selection = select({{0, 0, "2", 1, true, true}}, *prompts_, {}, true, 0);
  const json line = json::parse(selection.lines.at(0));
  EXPECT_FALSE(line.contains("prompt"));
  EXPECT_EQ(line["messages"].size(), 2u);
  EXPECT_EQ(line["messages"][1], json::parse(R"({"role": "assistant", "content": "2"})"));
}

TEST_F(SelectionTest, MixesAShareOfGeneralData) {
  std::string general;
  for (int i = 0; i < 10; ++i) general += "{\"text\": \"" + std::to_string(i) + "\"}\n";
  write_file_atomically(folder_.path() / "g.jsonl", general);
  const auto path = (folder_.path() / "g.jsonl").string();
  const auto selection = select({{0, 0, "2", 1, true, true}, {1, 0, "4", 1, true, true}}, *prompts_, {.mix = {{path, 0.5}}}, false, 0);
  EXPECT_EQ(selection.lines.size(), 4u);
  EXPECT_EQ(selection.counts["mixed"][path], 2);
}

TEST_F(SelectionTest, KeepingNothingIsAnErrorThatSaysWhy) {
  EXPECT_THAT(message_of<ConfigError>([&] { (void)select({{0, 0, "3", 0, true, true}}, *prompts_, {}, false, 0); }),
              testing::AllOf(HasSubstr("no completion is good enough"), HasSubstr("\"low_reward\":1"), HasSubstr("lower minimum_reward")));
}

}  // namespace
}  // namespace tessera::pipeline
