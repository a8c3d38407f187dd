// Chats whose masks were checked by hand: golden/*.golden holds a template's name, a line of JSONL,
// and the text with the trained tokens in [[..]].
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "data/chat_mask.h"
#include "data/inspect.h"
#include "data/sample.h"
#include "tests/data/test_support.h"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const fs::path kFolder = fs::path(TESSERA_SOURCE_DIR) / "tests/data/golden";

// The bytes, and the special tokens of the golden templates.
Tokenizer tokenizer() {
  auto json = test::tiny_tokenizer_json();
  for (const char* token :
       {"<|im_start|>", "<|im_end|>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
        "<｜User｜>", "<｜Assistant｜>", "<|begin_of_text|>", "<|start_header_id|>",
        "<|end_header_id|>", "<|eot_id|>", "<|assistant|>", "<|endoftext|>"})
    json["added_tokens"].push_back(
        {{"id", 262 + json["added_tokens"].size()}, {"content", token}, {"special", true}});
  return Tokenizer::from_json(json.dump(), "golden");
}

ChatTemplate chat_template(const std::string& name) {
  const std::string bos = name == "r1.jinja" ? "<｜begin▁of▁sentence｜>" : "<|begin_of_text|>";
  return ChatTemplate(read_text_file(kFolder / name), {{"bos_token", bos}}, name);
}

struct Golden {
  std::string name, chat_template, line, expected;
};

std::vector<Golden> all_golden() {
  std::vector<Golden> out;
  for (const auto& entry : fs::directory_iterator(kFolder)) {
    if (entry.path().extension() != ".golden") continue;
    const std::string text = read_text_file(entry.path());
    const size_t first = text.find('\n'), second = text.find('\n', first + 1);
    out.push_back({entry.path().stem().string(), text.substr(0, first),
                   text.substr(first + 1, second - first - 1), text.substr(second + 1)});
  }
  return out;
}

std::string without_line_ends(std::string text) {
  while (text.ends_with('\n')) text.pop_back();
  return text;
}

TEST(Golden, MasksAreThoseCheckedByHand) {
  const Tokenizer tokens = tokenizer();
  const auto all = all_golden();
  ASSERT_GE(all.size(), 8u);
  for (const Golden& golden : all) {
    const ChatTemplate chat = chat_template(golden.chat_template);
    const auto sample =
        encode_sample(parse_json(golden.line, golden.name), tokens, &chat, golden.name);
    Row row;
    row.tokens = sample.tokens;
    row.loss_mask = sample.loss_mask;
    row.segments.push_back({0, static_cast<int32_t>(sample.tokens.size()), 0, -1});
    EXPECT_EQ(without_line_ends(describe_row(row, tokens, false)),
              without_line_ends(golden.expected))
        << golden.name;
    EXPECT_THAT(sample.doubts, testing::IsEmpty()) << golden.name;
  }
}

TEST(Golden, CountsRewrittenAnswers) {
  const ChatTemplate chat = chat_template("qwen3.jinja");
  const auto sample = encode_sample(
      parse_json(
          R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>b</think>c"},
                                  {"role": "user", "content": "d"}, {"role": "assistant", "content": "e"}]})",
          "m"),
      tokenizer(), &chat, "m");
  EXPECT_EQ(sample.rewritten, 1);
  const ChatTemplate ends_the_chat = chat_template("phi3.jinja");  // which drops nothing
  const auto whole = encode_sample(
      parse_json(
          R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"},
                                  {"role": "user", "content": "d"}, {"role": "assistant", "content": "e"}]})",
          "m"),
      tokenizer(), &ends_the_chat, "m");
  EXPECT_EQ(whole.rewritten, 0);
}

// Every golden mask, damaged in all the ways that a bug might: the check finds it.
TEST(Golden, DamagedMasksAreCaught) {
  const Tokenizer tokens = tokenizer();
  for (const Golden& golden : all_golden()) {
    const Json line = parse_json(golden.line, golden.name);
    RenderedChat chat =
        chat_template(golden.chat_template)
            .render_with_answers(line["messages"], template_variables(line, golden.name));
    std::vector<int64_t> ends;
    const auto ids = tokens.encode(chat.text, ends);
    end_before_special(chat, ids, ends, tokens);
    const TokenizedChat tokenized{chat, ids, ends};
    std::vector<uint8_t> mask;
    ASSERT_THAT(mark_answers(tokenized, tokens, mask), testing::IsEmpty());
    ASSERT_EQ(check_mask(tokenized, tokens, mask), "");
    const auto caught = [&](std::vector<uint8_t> damaged) {
      return !check_mask(tokenized, tokens, damaged).empty();
    };

    auto without_end = mask;
    *(std::find(without_end.rbegin(), without_end.rend(), 1)) = 0;
    EXPECT_TRUE(caught(without_end)) << golden.name << ": end token dropped";
    auto shifted = mask;
    std::rotate(shifted.rbegin(), shifted.rbegin() + 1, shifted.rend());
    EXPECT_TRUE(caught(shifted)) << golden.name << ": shifted to the right";
    shifted = mask;
    std::rotate(shifted.begin(), shifted.begin() + 1, shifted.end());
    EXPECT_TRUE(caught(shifted)) << golden.name << ": shifted to the left";
    EXPECT_TRUE(caught(std::vector<uint8_t>(mask.size(), 0))) << golden.name << ": nothing trained";
    EXPECT_TRUE(caught(std::vector<uint8_t>(mask.size(), 1))) << golden.name << ": all trained";
    EXPECT_TRUE(caught(std::vector<uint8_t>(mask.size() + 1, 1))) << golden.name << ": too long";
    for (size_t i = 0; i < mask.size(); ++i) {
      auto flipped = mask;
      flipped[i] ^= 1;
      EXPECT_TRUE(caught(flipped)) << golden.name << ": token " << i << " flipped";
    }
  }
}

TEST(Golden, AnAnswerThatIsNotInTheTextIsRefusedWithTheText) {
  const ChatTemplate hides(
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content if loop.last else 'x' "
      "}}<|im_end|>{% endfor %}"
      "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}");
  const Json line = parse_json(
      R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                       {"role": "user", "content": "c"}]})",
      "m");
  const std::string message =
      test::config_error([&] { (void)encode_sample(line, tokenizer(), &hides, "m:3"); });
  EXPECT_THAT(
      message,
      HasSubstr(
          "m:3: message 2 (assistant): the chat template does not show what the message says"));
  EXPECT_THAT(message, HasSubstr("<|im_start|>user\nx<|im_end|>"));
}

}  // namespace
}  // namespace tessera::data
