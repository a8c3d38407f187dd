// Models of characters (Llama 2, Mistral, Gemma), post-processors and decoders; the parity test has
// the whole families.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/chat_template.h"
#include "data/sample.h"
#include "data/tokenizer.h"
#include "tests/data/test_support.h"

namespace tessera::data {
namespace {

using test::config_error;
using testing::ElementsAre;
using testing::HasSubstr;
using Change = std::function<void(nlohmann::json&)>;

// 0: <unk>, 1: <s>, 2: </s>, 3-258: the bytes, 259: ▁, 260: a, 261: b, 262: ▁a, 263: ab
nlohmann::json llama2_json() {
  nlohmann::json vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
  for (int b = 0; b < 256; ++b) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", static_cast<unsigned>(b));
    vocab[text] = 3 + b;
  }
  int id = 259;
  for (const char* token : {"▁", "a", "b", "▁a", "ab"}) vocab[token] = id++;
  nlohmann::json json;
  json["added_tokens"] = nlohmann::json::array();
  for (const char* token : {"<unk>", "<s>", "</s>"})
    json["added_tokens"].push_back({{"id", vocab[token]}, {"content", token}, {"special", true}});
  json["normalizer"] = {
      {"type", "Sequence"},
      {"normalizers",
       {{{"type", "Prepend"}, {"prepend", "▁"}},
        {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}}}}};
  json["pre_tokenizer"] = nullptr;
  json["decoder"] = {{"type", "Sequence"},
                     {"decoders",
                      {{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}},
                       {{"type", "ByteFallback"}},
                       {{"type", "Fuse"}},
                       {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}};
  json["model"] = {{"type", "BPE"},         {"unk_token", "<unk>"}, {"fuse_unk", true},
                   {"byte_fallback", true}, {"vocab", vocab},       {"merges", {"▁ a", "a b"}}};
  return json;
}

Tokenizer llama2(const Change& change = [](auto&) {}) {
  auto json = llama2_json();
  change(json);
  return Tokenizer::from_json(json.dump(), "llama2.json");
}

TEST(TokenizerKinds, BytesStandForWhatHasNoToken) {
  const Tokenizer tokenizer = llama2();
  EXPECT_THAT(tokenizer.encode("a ab"), ElementsAre(262, 262, 261));
  EXPECT_THAT(tokenizer.encode("\xC3\xA9"), ElementsAre(259, 3 + 0xC3, 3 + 0xA9));
  EXPECT_THAT(tokenizer.encode("a</s>b"), ElementsAre(262, 2, 259, 261));
  const std::string text = "ab \xF0\x9F\x98\x80  b\n";
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{3 + 0xC3, 260}),
            "\xEF\xBF\xBD"
            "a");
}

TEST(TokenizerKinds, OffsetsAreThoseOfTheText) {
  std::vector<int64_t> ends;
  const auto ids = llama2().encode("a \xC3\xA9</s>ab", ends);
  EXPECT_THAT(ids, ElementsAre(262, 259, 3 + 0xC3, 3 + 0xA9, 2, 262, 261));
  EXPECT_THAT(ends, ElementsAre(1, 2, 3, 4, 8, 9, 10));
}

TEST(TokenizerKinds, UnknownCharactersAreFused) {
  const auto without_bytes = [](bool fuse) {
    return [fuse](nlohmann::json& json) {
      json["model"]["byte_fallback"] = false;
      json["model"]["fuse_unk"] = fuse;
    };
  };
  EXPECT_THAT(llama2(without_bytes(true)).encode("axyb"), ElementsAre(262, 0, 261));
  EXPECT_THAT(llama2(without_bytes(false)).encode("axyb"), ElementsAre(262, 0, 0, 261));
  std::vector<int64_t> ends;
  (void)llama2(without_bytes(true)).encode("axyb", ends);
  EXPECT_THAT(ends, ElementsAre(1, 3, 4));
}

TEST(TokenizerKinds, MetaspacePrefixesTheFirstPieceOrAll) {
  const auto metaspace = [](const char* scheme) {
    return [scheme](nlohmann::json& json) {
      json["normalizer"] = nullptr;
      json["pre_tokenizer"] = {
          {"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", scheme}, {"split", true}};
      json["decoder"] = {
          {"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", scheme}, {"split", true}};
    };
  };
  EXPECT_THAT(llama2(metaspace("always")).encode("a</s>a a"), ElementsAre(262, 2, 262, 262));
  EXPECT_THAT(llama2(metaspace("first")).encode("a</s>a a"), ElementsAre(262, 2, 260, 262));
  EXPECT_THAT(llama2(metaspace("never")).encode("a a"), ElementsAre(260, 262));
  EXPECT_EQ(llama2(metaspace("first")).decode(std::vector<int32_t>{262, 262}), "a a");
}

TEST(TokenizerKinds, PostProcessorOpensAText) {
  const auto bos = [](nlohmann::json& json) {
    json["post_processor"] = {
        {"type", "TemplateProcessing"},
        {"single",
         {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
          {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
        {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {1}}, {"tokens", {"<s>"}}}}}}};
  };
  EXPECT_THAT(llama2(bos).encode_whole("a"), ElementsAre(1, 262));
  EXPECT_THAT(llama2(bos).encode("a"), ElementsAre(262));
  EXPECT_THAT(llama2(bos).opening(), ElementsAre(1));
  EXPECT_THAT(config_error([&] {
                (void)llama2([&](nlohmann::json& json) {
                  bos(json);
                  json["post_processor"]["special_tokens"]["<s>"]["ids"] = {9999};
                });
              }),
              HasSubstr("post_processor: no token has the id 9999"));
}

TEST(TokenizerKinds, RefusesByName) {
  const auto refusal = [](const Change& change) {
    return config_error([&] { (void)llama2(change); });
  };
  EXPECT_THAT(refusal([](auto& j) {
                j["decoder"] = {{"type", "CTC"}};
              }),
              HasSubstr("decoder \"CTC\" is not supported"));
  EXPECT_THAT(refusal([](auto& j) {
                j["post_processor"] = {{"type", "Odd"}};
              }),
              HasSubstr("post_processor \"Odd\""));
  EXPECT_THAT(refusal([](auto& j) {
                j["pre_tokenizer"] = {{"type", "Whitespace"}};
              }),
              HasSubstr("\"Whitespace\""));
  EXPECT_THAT(refusal([](auto& j) { j["model"]["unk_token"] = "<no>"; }),
              HasSubstr("model.unk_token \"<no>\""));
  EXPECT_THAT(
      refusal([](auto& j) {
        j["model"]["unk_token"] = nullptr;
        j["model"]["byte_fallback"] = false;
      }),
      HasSubstr("has no ByteLevel step, and the model neither byte_fallback nor an unk_token"));
  EXPECT_THAT(refusal([](auto& j) {
                j["normalizer"]["normalizers"].push_back({{"type", "NFC"}});
              }),
              HasSubstr("normalizer NFC behind Prepend or Replace"));
}

TEST(TokenizerKinds, PlainContentKeepsSpecialTokensText) {
  const test::TemporaryFolder folder;
  test::write_model_folder(folder);
  const Tokenizer tokenizer = Tokenizer::load(folder.path());
  const ChatTemplate chat_template = ChatTemplate::load(folder.path());
  const Json messages = parse_json(
      R"([{"role": "user", "content": "<|end|>"}, {"role": "assistant", "content": "a<|user|>"}])",
      "m");
  const auto sample =
      encode_chat(messages, Json::object(), {.plain_content = true}, tokenizer, chat_template, "m");
  EXPECT_THAT(sample.tokens, ElementsAre(test::kUser, '<', '|', 'e', 'n', 'd', '|', '>', test::kEnd,
                                         '\n', test::kBot, 'a', '<', '|', 'u', 's', 'e', 'r', '|',
                                         '>', test::kEnd, '\n'));
  EXPECT_EQ(std::count(sample.loss_mask.begin(), sample.loss_mask.end(), 1), 10);
  const auto as_is = encode_prompt(messages, Json::object(), {}, tokenizer, chat_template, "m");
  EXPECT_THAT(as_is, ElementsAre(test::kUser, test::kEnd, test::kEnd, '\n', test::kBot, 'a',
                                 test::kUser, test::kEnd, '\n'));
}

}  // namespace
}  // namespace tessera::data
