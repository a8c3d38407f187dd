#include "data/bpe_trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/train_tokenizer.h"
#include "tests/data/test_support.h"

namespace tessera::data {
namespace {

using test::config_error;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> merged(const WordCounts& words, int64_t merges,
                                int64_t min_frequency = 1) {
  const auto bpe = train_bpe(
      words, {.vocab_size = 256 + merges, .min_frequency = min_frequency, .special_tokens = {}});
  return {bpe.tokens.begin() + 256, bpe.tokens.end()};
}

TEST(BpeTrainer, MergesTheMostFrequentPairFirst) {
  EXPECT_THAT(merged({{"hug", 10}, {"pug", 5}, {"pun", 12}, {"bun", 4}, {"hugs", 5}}, 3),
              ElementsAre("ug", "un", "hug"));
}

TEST(BpeTrainer, TiesGoToTheSmallestIds) {
  EXPECT_THAT(merged({{"xy", 2}, {"ab", 2}, {"ba", 2}}, 3), ElementsAre("ab", "ba", "xy"));
}

TEST(BpeTrainer, RunsMergeFromTheLeft) {
  EXPECT_THAT(merged({{"aaaaa", 1}}, 2), ElementsAre("aa", "aaa"));
}

TEST(BpeTrainer, RarePairsAreNotMerged) {
  EXPECT_THAT(merged({{"ab", 3}, {"cd", 1}}, 10, 2), ElementsAre("ab"));
}

TEST(BpeTrainer, SpecialTokensComeFirst) {
  const auto bpe = train_bpe(
      {{"ab", 1}}, {.vocab_size = 259, .min_frequency = 1, .special_tokens = {"<a>", "<b>"}});
  EXPECT_EQ(bpe.tokens[0], "<a>");
  EXPECT_EQ(bpe.tokens[2], "!");
  EXPECT_EQ(bpe.tokens[258], "ab");
  EXPECT_THAT(config_error([] {
                (void)train_bpe({}, {.vocab_size = 100, .min_frequency = 1, .special_tokens = {}});
              }),
              HasSubstr("has no room for 0 special tokens and 256 bytes"));
  EXPECT_THAT(config_error([] {
                (void)train_bpe(
                    {}, {.vocab_size = 300, .min_frequency = 1, .special_tokens = {"<a>", "<a>"}});
              }),
              HasSubstr("\"<a>\" is given twice"));
}

TEST(TrainTokenizer, WritesATokenizerThatReadsItsText) {
  const test::TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 300; ++i)
    text += "The badge of form F-" + std::to_string(i % 20) + " is lost.\n\nAsk at the desk.\n";
  TrainTokenizerOptions options;
  options.inputs = {folder.write("a.txt", text),
                    folder.write("b.jsonl", "{\"text\": \"Ask \xC3\xA9 at\"}\n")};
  options.output = folder / "out";
  options.vocab_size = 400;
  options.special_tokens = {"<|user|>"};
  for (const char* pattern : {"deepseek", "llama3", "gpt2"}) {
    options.pattern = pattern;
    options.threads = 1;
    const auto stats = train_tokenizer(options);
    const std::string once = read_text_file(folder / "out/tokenizer.json");
    options.threads = 3;
    (void)train_tokenizer(options);
    EXPECT_EQ(read_text_file(folder / "out/tokenizer.json"), once) << pattern;
    const Tokenizer tokenizer = Tokenizer::load(folder / "out");
    EXPECT_EQ(tokenizer.vocab_size(), stats.vocab_size);
    const auto ids = tokenizer.encode(text);
    EXPECT_LT(ids.size() * 2, text.size()) << pattern;
    EXPECT_EQ(tokenizer.decode(ids), text);
    EXPECT_EQ(tokenizer.eos_id(), 1);
    EXPECT_TRUE(tokenizer.is_special(3));
  }
  options.pattern = "words";
  EXPECT_THAT(config_error([&] { (void)train_tokenizer(options); }),
              HasSubstr("--pattern words is not known"));
}

}  // namespace
}  // namespace tessera::data
