#include "data/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/pre_tokenizer.h"
#include "data/scanners.h"
#include "data/unicode.h"
#include "tests/data/test_support.h"

namespace tessera::data {
namespace {

using test::config_error;
using testing::ElementsAre;
using testing::HasSubstr;

Tokenizer tiny(const std::function<void(nlohmann::json&)>& change = [](auto&) {}) {
  auto json = test::tiny_tokenizer_json();
  change(json);
  return Tokenizer::from_json(json.dump(), "tiny.json");
}

std::string refusal(const std::function<void(nlohmann::json&)>& change) {
  return config_error([&] { (void)tiny(change); });
}

TEST(Tokenizer, MergesByRankAndCutsSpecialTokensOut) {
  const Tokenizer tokenizer = tiny();
  EXPECT_THAT(tokenizer.encode("hello hello<|end|>hel"), ElementsAre(259, 260, 262, 256, 'l'));
  EXPECT_THAT(tokenizer.encode_ordinary("<|end|>"), ElementsAre('<', '|', 'e', 'n', 'd', '|', '>'));
  EXPECT_THAT(tokenizer.encode(""), ElementsAre());
  EXPECT_EQ(tokenizer.vocab_size(), 265);
  EXPECT_EQ(tokenizer.token_id("<|bot|>"), 264);
  EXPECT_EQ(tokenizer.token_id("nothing"), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(262));
  EXPECT_FALSE(tokenizer.is_special(259));
}

TEST(Tokenizer, DecodesWhatItEncoded) {
  const Tokenizer tokenizer = tiny();
  const std::string text = "hello \xF0\x9F\x98\x80 <|end|>\xC3\xA9\n\t";
  const auto ids = tokenizer.encode(text);
  EXPECT_EQ(tokenizer.decode(ids), text);
  EXPECT_EQ(tokenizer.decode(ids, true), "hello \xF0\x9F\x98\x80 \xC3\xA9\n\t");
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{0xC3, 100000, -1}), "\xEF\xBF\xBD");
}

TEST(Tokenizer, ReplacesIllFormedUtf8AsRustDoes) {
  EXPECT_EQ(replace_invalid_utf8("a\xFF"
                                 "b"),
            "a\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(replace_invalid_utf8("\xE2\x82"), "\xEF\xBF\xBD");  // one maximal part
  EXPECT_EQ(replace_invalid_utf8("\xED\xA0\x80"),
            "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");  // a surrogate
  EXPECT_FALSE(is_valid_utf8("aaaaaaaaaaaa\xC0\xAF"));
  const Tokenizer tokenizer = tiny();
  EXPECT_EQ(tokenizer.encode("a\xFF"), tokenizer.encode("a\xEF\xBF\xBD"));
}

TEST(Tokenizer, LongWordsMergeAsShortOnesDo) {
  const Tokenizer tokenizer = tiny();
  std::string text;
  std::vector<int32_t> expected;
  for (int i = 0; i < 1000; ++i) {
    text += "hello";
    expected.push_back(259);
  }
  EXPECT_EQ(tokenizer.encode(text), expected);
  const auto run = tokenizer.encode(std::string(200001, 'l'));
  EXPECT_EQ(run.size(), 100001u);
  EXPECT_EQ(run.front(), 257);
  EXPECT_EQ(run.back(), 'l');
}

TEST(Tokenizer, OffsetsEndEachToken) {
  const Tokenizer tokenizer = tiny();
  std::vector<int64_t> ends;
  (void)tokenizer.encode("hello<|end|> hello\xC3\xA9", ends);
  EXPECT_THAT(ends, ElementsAre(5, 12, 18, 19, 20));
}

TEST(Tokenizer, BatchesAndThreadsAgree) {
  const Tokenizer tokenizer = tiny();
  std::vector<std::string> texts;
  for (int i = 0; i < 200; ++i)
    texts.push_back("hello " + std::to_string(i * i) + std::string(static_cast<size_t>(i), 'l'));
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  const auto one = tokenizer.encode_batch(views, 1), four = tokenizer.encode_batch(views, 4);
  EXPECT_EQ(one, four);
  EXPECT_EQ(one[7], tokenizer.encode(texts[7]));
}

TEST(Tokenizer, BytesWithoutATokenAreDropped) {
  const auto without_z = [](nlohmann::json& json) { json["model"]["vocab"].erase("z"); };
  EXPECT_THAT(tiny(without_z).encode("azb"), ElementsAre('a', 'b'));
}

TEST(Tokenizer, IgnoreMergesKeepsWholeWords) {
  const auto change = [](nlohmann::json& json) {
    json["model"]["ignore_merges"] = true;
    json["model"]["vocab"]["axb"] = 265;
  };
  EXPECT_THAT(tiny(change).encode("axb axb"), ElementsAre(265, ' ', 'a', 'x', 'b'));
}

TEST(Tokenizer, AddedTokensStripAndStandAlone) {
  const auto change = [](nlohmann::json& json) {
    json["added_tokens"].push_back(
        {{"id", 265}, {"content", "<s>"}, {"lstrip", true}, {"rstrip", true}});
    json["added_tokens"].push_back({{"id", 266}, {"content", "one"}, {"single_word", true}});
    json["added_tokens"].push_back({{"id", 267}, {"content", "<s>>"}});
  };
  const Tokenizer tokenizer = tiny(change);
  EXPECT_THAT(tokenizer.encode("a  <s> \nb"), ElementsAre('a', 265, 'b'));
  EXPECT_THAT(tokenizer.encode("one ones"), ElementsAre(266, ' ', 'o', 'n', 'e', 's'));
  EXPECT_THAT(tokenizer.encode("<s>>"), ElementsAre(267));  // the longest wins
}

TEST(Tokenizer, NfcComposes) {
  const auto nfc = [](nlohmann::json& json) { json["normalizer"] = {{"type", "NFC"}}; };
  EXPECT_THAT(tiny(nfc).encode("e\xCC\x81"), ElementsAre(0xC3, 0xA9));
}

TEST(Tokenizer, RefusesByName) {
  using Json = nlohmann::json;
  EXPECT_THAT(refusal([](Json& j) { j["model"]["type"] = "Unigram"; }),
              HasSubstr("tiny.json: model type \"Unigram\""));
  EXPECT_THAT(refusal([](Json& j) { j["model"]["dropout"] = 0.1; }), HasSubstr("model.dropout"));
  EXPECT_THAT(refusal([](Json& j) {
                j["model"]["byte_fallback"] = true;
                j["model"]["vocab"].erase("z");
              }),
              HasSubstr("byte_fallback"));
  EXPECT_THAT(refusal([](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }),
              HasSubstr("end_of_word_suffix"));
  EXPECT_THAT(refusal([](Json& j) {
                j["normalizer"] = {{"type", "Lowercase"}};
              }),
              HasSubstr("normalizer \"Lowercase\""));
  EXPECT_THAT(refusal([](Json& j) {
                j["pre_tokenizer"] = {{"type", "Metaspace"}};
              }),
              HasSubstr("no ByteLevel step"));
  EXPECT_THAT(refusal([](Json& j) { j["pre_tokenizer"] = nullptr; }), HasSubstr("no ByteLevel"));
  EXPECT_THAT(refusal([](Json& j) {
                j["decoder"] = {{"type", "WordPiece"}};
              }),
              HasSubstr("decoder \"WordPiece\""));
  EXPECT_THAT(refusal([](Json& j) { j["model"]["merges"].push_back("he x"); }),
              HasSubstr("\"hex\", which is not"));
  EXPECT_THAT(refusal([](Json& j) { j["model"]["merges"].push_back("a b c"); }),
              HasSubstr("merge 6 must be"));
  EXPECT_THAT(refusal([](Json& j) { j["model"]["vocab"]["twice"] = 5; }), HasSubstr("share id 5"));
  EXPECT_THAT(refusal([](Json& j) { j["model"]["vocab"]["far"] = 1 << 30; }),
              HasSubstr("must be an integer in"));
  EXPECT_THAT(refusal([](Json& j) { j["added_tokens"][0]["id"] = 3; }), HasSubstr("share id 3"));
  EXPECT_THAT(refusal([](Json& j) {
                j["pre_tokenizer"] = {
                    {"type", "Split"}, {"pattern", {{"Regex", "(["}}}, {"behavior", "Isolated"}};
              }),
              HasSubstr("does not compile"));
  EXPECT_THAT(config_error([] { (void)Tokenizer::from_json("{\"model\"", "x.json"); }),
              HasSubstr("x.json: not valid JSON"));
  EXPECT_THAT(config_error([] { (void)Tokenizer::from_json("[]", "x.json"); }),
              HasSubstr("not a tokenizer.json"));
  EXPECT_THAT(config_error([] { (void)Tokenizer::from_json(std::string(100000, '['), "x.json"); }),
              HasSubstr("deeper"));
}

TEST(Tokenizer, LoadsSpecialIdsFromTheFolder) {
  const test::TemporaryFolder folder;
  test::write_model_folder(folder);
  folder.write("generation_config.json", R"({"eos_token_id": [262, 263], "bos_token_id": 264})");
  const Tokenizer tokenizer = Tokenizer::load(folder.path());
  EXPECT_EQ(tokenizer.eos_id(), 262);
  EXPECT_EQ(tokenizer.bos_id(), 264);
  EXPECT_THAT(tokenizer.stop_ids(), ElementsAre(262, 263));
  folder.write("tokenizer_config.json", R"({"eos_token": "<|no|>"})");
  EXPECT_THAT(config_error([&] { (void)Tokenizer::load(folder.path()); }),
              HasSubstr("eos_token \"<|no|>\" is not in"));
  EXPECT_THAT(config_error([&] { (void)Tokenizer::load(folder / "none"); }),
              HasSubstr("tokenizer.json: no such file"));
}

std::vector<std::string> split(const nlohmann::json& spec, const std::string& text) {
  const PreTokenizer pre(spec, "test");
  PreTokenizerScratch scratch;
  pre.split(text, scratch);
  std::vector<std::string> out;
  for (const Piece& piece : scratch.pieces)
    out.push_back(text.substr(piece.begin, piece.end - piece.begin));
  return out;
}

nlohmann::json regex(const std::string& pattern, const std::string& behavior = "Isolated",
                     bool invert = false) {
  return {{"type", "Sequence"},
          {"pretokenizers",
           {{{"type", "Split"},
             {"pattern", {{"Regex", pattern}}},
             {"behavior", behavior},
             {"invert", invert}},
            {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
}

TEST(PreTokenizer, SplitsAsGpt2) {
  const nlohmann::json gpt2 = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  EXPECT_THAT(split(gpt2, "I'll pay  $12.50\n\n now"),
              ElementsAre("I", "'ll", " pay", " ", " $", "12", ".", "50", "\n\n", " now"));
  EXPECT_THAT(split(gpt2, "a  "), ElementsAre("a", "  "));
}

TEST(PreTokenizer, BehavioursOfSplit) {
  EXPECT_THAT(split(regex("-", "Removed"), "a-b--c"), ElementsAre("a", "b", "c"));
  EXPECT_THAT(split(regex("-"), "a-b--c"), ElementsAre("a", "-", "b", "-", "-", "c"));
  EXPECT_THAT(split(regex("-", "MergedWithPrevious"), "a-b--c"), ElementsAre("a-", "b-", "-", "c"));
  EXPECT_THAT(split(regex("-", "MergedWithNext"), "a-b--c"), ElementsAre("a", "-b", "-", "-c"));
  EXPECT_THAT(split(regex("-", "Contiguous"), "a-b--c"), ElementsAre("a", "-", "b", "--", "c"));
  EXPECT_THAT(split(regex("[a-z]+", "Removed", true), "a-b--c"), ElementsAre("a", "b", "c"));
}

// The scanners against the patterns they stand for, run by PCRE2 (a group around a pattern keeps
// the scanner away).
nlohmann::json deepseek(bool as_regex) {
  nlohmann::json steps = nlohmann::json::array();
  for (const std::string_view pattern : kDeepSeekPatterns)
    steps.push_back(regex(as_regex ? "(?:" + std::string(pattern) + ")"
                                   : std::string(pattern))["pretokenizers"][0]);
  steps.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}});
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

TEST(PreTokenizer, ScannersEqualTheirPatterns) {
  const std::vector<std::string> atoms = {"a",
                                          "Z",
                                          "\xC3\xA9",
                                          "1",
                                          "23",
                                          "\xD9\xA1",
                                          " ",
                                          "  ",
                                          "\n",
                                          "\r\n",
                                          "\t",
                                          "\xC2\xA0",
                                          "'",
                                          "'s",
                                          "'LL",
                                          "'\xC5\xBF",
                                          ".",
                                          "!?",
                                          "\xE2\x82\xAC",
                                          "\xCC\x81",
                                          "\xF0\x9F\x98\x80",
                                          "\xE6\x97\xA5",
                                          "_",
                                          std::string(1, '\0'),
                                          "\xE2\x80\xA8",
                                          "\xE3\x82\x99",
                                          "\xE3\x83\xBB",
                                          "\x01",
                                          "$a"};
  uint32_t state = 12345;
  const auto random = [&] { return state = state * 1664525 + 1013904223, state >> 8; };
  for (const std::string_view pattern : {kGpt2Pattern, kLlama3Pattern, kQwen2Pattern}) {
    const nlohmann::json scanner = regex(std::string(pattern)),
                         reference = regex("(?:" + std::string(pattern) + ")");
    for (int i = 0; i < 3000; ++i) {
      std::string text;
      for (uint32_t n = 1 + random() % 12; n > 0; --n) text += atoms[random() % atoms.size()];
      ASSERT_EQ(split(scanner, text), split(reference, text)) << pattern << "\n" << text;
    }
  }
  for (int i = 0; i < 2000; ++i) {
    std::string text;
    for (uint32_t n = 1 + random() % 12; n > 0; --n) text += atoms[random() % atoms.size()];
    ASSERT_EQ(split(deepseek(false), text), split(deepseek(true), text)) << "deepseek\n" << text;
  }
}

}  // namespace
}  // namespace tessera::data
