#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "data/chat_template.h"
#include "data/sample.h"
#include "data/tokenize_stream.h"
#include "tests/data/test_support.h"

namespace tessera::data {
namespace {

using test::config_error;
using test::kBot;
using test::kEnd;
using test::kHello;
using test::kUser;
using testing::ElementsAre;
using testing::HasSubstr;

std::string render(const std::string& source, const std::string& variables = "{}",
                   const std::string& messages = "[]") {
  return ChatTemplate(source, Json::object(), "t.jinja")
      .render(parse_json(messages, "m"), false, parse_json(variables, "v"));
}

TEST(ChatTemplate, TrimsBlocksAsTransformersDoes) {
  EXPECT_EQ(render("a\n  {% if true %}\nb\n  {% endif %}\nc\n"), "a\nb\nc");
  EXPECT_EQ(render("a  {%- if true -%}  b  {%- endif %}\n\nc"), "ab\nc");
  EXPECT_EQ(render("x {{- ' y ' -}} z"), "x y z");
  EXPECT_EQ(render("a {# note #}\nb"), "a b");
  EXPECT_EQ(render("  {%+ if true %}x{% endif %}"), "  x");
}

TEST(ChatTemplate, EvaluatesExpressions) {
  EXPECT_EQ(render("{{ 1 + 2 * 3 }} {{ 7 // 2 }} {{ -7 % 3 }} {{ 1 / 2 }} {{ 'a' ~ 1 ~ none }}"),
            "7 3 2 0.5 a1None");
  EXPECT_EQ(render("{{ 'x' if a else 'y' }}{{ b is defined }}{{ not c and d or 'e' }}",
                   R"({"a": [], "d": "d"})"),
            "yFalsed");
  EXPECT_EQ(render("{{ x['k'][-1] }}{{ x.k[1:] | join(',') }}{{ 'hello'[1:3] }}{{ x.k[::-1][0] }}",
                   R"({"x": {"k": [1, 2, 3]}})"),
            "32,3el3");
  EXPECT_EQ(render("{{ 'b' in 'abc' }}{{ 'k' in x }}{{ 3 not in [1, 2] }}", R"({"x": {"k": 1}})"),
            "TrueTrueTrue");
  EXPECT_EQ(render("{{ x | tojson }}", R"({"x": {"b": [1, "\u00e9\n"], "a": {}, "c": null}})"),
            "{\"b\": [1, \"\xC3\xA9\\n\"], \"a\": {}, \"c\": null}");
  EXPECT_EQ(render("{{ x | tojson(indent=2) }}", R"({"x": {"b": [1]}})"),
            "{\n  \"b\": [\n    1\n  ]\n}");
  EXPECT_EQ(render("{{ ' a '.strip() }}{{ 'a</t>b'.split('</t>')[-1] }}{{ 'ab'.startswith('a') "
                   "}}{{ 'x\\n'.rstrip('\\n') }}"),
            "abTruex");
  EXPECT_EQ(render("{{ 'aB' | upper }}{{ 'aB' | lower }}{{ '' | default('d', true) }}{{ zz | "
                   "default('e') }}{{ [1,2]|length }}"),
            "ABabde2");
}

TEST(ChatTemplate, LoopsNamespacesAndMacros) {
  EXPECT_EQ(
      render(
          "{% for a in x %}{{ loop.index }}{{ a }}{% if not loop.last %},{% endif %}{% endfor %}",
          R"({"x": ["p", "q"]})"),
      "1p,2q");
  EXPECT_EQ(render("{% set ns = namespace(n=0) %}{% for a in [1,2,3] %}{% set ns.n = ns.n + a %}{% "
                   "endfor %}{{ ns.n }}"),
            "6");
  EXPECT_EQ(render("{% set n = 1 %}{% for a in [1] %}{% set n = 2 %}{% endfor %}{{ n }}"), "1");
  EXPECT_EQ(render("{% for k, v in x.items() %}{{ k }}={{ v }};{% endfor %}",
                   R"({"x": {"b": 1, "a": 2}})"),
            "b=1;a=2;");
  EXPECT_EQ(render("{% for a in [1,2,3] if a != 2 %}{{ a }}{% endfor %}{% for a in [] %}{% else "
                   "%}none{% endfor %}"),
            "13none");
  EXPECT_EQ(
      render("{% macro f(a, b='x') %}[{{ a }}{{ b }}]{% endmacro %}{{ f(1) }}{{ f(2, b=3) }}"),
      "[1x][23]");
  EXPECT_EQ(
      render("{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}"),
      "012");
}

TEST(ChatTemplate, MistakesNameTheLine) {
  EXPECT_THAT(config_error([] { (void)render("a\n{% if x %}"); }),
              HasSubstr("t.jinja:2: {% endif %} is missing"));
  EXPECT_THAT(config_error([] { (void)render("\n\n{{ x | frobnicate }}"); }),
              HasSubstr("t.jinja:3: the filter 'frobnicate' is not supported"));
  EXPECT_THAT(config_error([] { (void)render("{{ x.y.z }}"); }),
              HasSubstr("t.jinja:1: 'y' of undefined 'x'"));
  EXPECT_THAT(config_error([] { (void)render("{{ raise_exception('no system') }}"); }),
              HasSubstr("refuses this chat: no system"));
  EXPECT_THAT(config_error([] { (void)render("{% include 'x' %}"); }),
              HasSubstr("{% include %} is not supported"));
  EXPECT_THAT(config_error([] { (void)render("{{ 'a' + 1 }}"); }),
              HasSubstr("'+' between a string and an integer"));
  EXPECT_THAT(config_error([] { (void)render("{{ 'a"); }), HasSubstr("a string is not closed"));
}

TEST(ChatTemplate, EndlessTemplatesEnd) {
  const std::string nested =
      "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}";
  EXPECT_THAT(config_error([&] { (void)render(nested); }), HasSubstr("does not come to an end"));
  EXPECT_THAT(config_error([] { (void)render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"); }),
              HasSubstr("too deeply"));
  EXPECT_THAT(
      config_error([] {
        (void)render("{{ " + std::string(100000, '(') + "1" + std::string(100000, ')') + " }}");
      }),
      HasSubstr("nested deeper"));
  EXPECT_THAT(
      config_error([] {
        (void)render(
            "{% set x = 'ab' %}{% for i in range(60) %}{% set x = x + x %}{{ x }}{% endfor %}"
            "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x "
            "%}{% endfor %}");
      }),
      HasSubstr("does not come to an end"));
}

class Sample : public testing::Test {
 protected:
  Sample() {
    test::write_model_folder(folder_);
    tokenizer_.emplace(Tokenizer::load(folder_.path()));
    template_.emplace(ChatTemplate::load(folder_.path()));
  }
  EncodedSample encode(const std::string& line) const {
    return encode_sample(parse_json(line, "f:7"), *tokenizer_, &*template_, "f:7");
  }
  std::string refusal(const std::string& line) const {
    return config_error([&] { (void)encode(line); });
  }
  test::TemporaryFolder folder_;
  std::optional<Tokenizer> tokenizer_;
  std::optional<ChatTemplate> template_;
};

TEST_F(Sample, ChatTrainsAnswersAndTheirEndToken) {
  const auto s = encode(
      R"({"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello"},
                            {"role": "user", "content": "a"}, {"role": "assistant", "content": "12"}]})");
  EXPECT_THAT(s.tokens, ElementsAre(kUser, kHello, kEnd, '\n', kBot, kHello, kEnd, '\n', kUser, 'a',
                                    kEnd, '\n', kBot, 261, kEnd, '\n'));
  EXPECT_THAT(s.loss_mask, ElementsAre(0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0));
}

TEST_F(Sample, PromptAndCompletionTrainTheCompletionAndTheEnd) {
  const auto s = encode(R"({"prompt": "hello", "completion": " hello"})");
  EXPECT_THAT(s.tokens, ElementsAre(kHello, test::kSpaceHello, kEnd));
  EXPECT_THAT(s.loss_mask, ElementsAre(0, 1, 1));
}

TEST_F(Sample, TextTrainsAllButTheFirst) {
  const auto s = encode(R"({"text": "hello hello"})");
  EXPECT_THAT(s.tokens, ElementsAre(kHello, test::kSpaceHello, kEnd));
  EXPECT_THAT(s.loss_mask, ElementsAre(0, 1, 1));
}

TEST_F(Sample, TokensStayAsTheyAre) {
  const auto s = encode(R"({"tokens": [1, 2, 3], "loss_mask": [1, 0, 1]})");
  EXPECT_THAT(s.tokens, ElementsAre(1, 2, 3));
  EXPECT_THAT(s.loss_mask, ElementsAre(0, 0, 1));  // nothing predicts the first
}

TEST_F(Sample, RefusalsNameTheLineAndTheRemedy) {
  EXPECT_THAT(refusal("[]"), HasSubstr("f:7: a line must be a JSON object, not an array"));
  EXPECT_THAT(refusal(R"({"prompt": "a", "chosen": "b"})"),
              HasSubstr("keys \"prompt\", \"chosen\"; accepted: {\"messages\""));
  EXPECT_THAT(refusal(R"({"text": "a", "messages": []})"),
              HasSubstr("more than one sample in a line"));
  EXPECT_THAT(refusal(R"({"text": 3})"), HasSubstr("\"text\" is an integer; it must be a string"));
  EXPECT_THAT(refusal(R"({"text": ""})"), HasSubstr("no token of this sample is trained"));
  EXPECT_THAT(refusal(R"({"messages": [{"role": "user", "content": "a"}]})"),
              HasSubstr("role \"assistant\""));
  EXPECT_THAT(refusal(R"({"messages": []})"), HasSubstr("that is not empty"));
  EXPECT_THAT(refusal(R"({"messages": [{"content": "a"}]})"),
              HasSubstr("message 1 must be an object with a \"role\""));
  EXPECT_THAT(refusal(R"({"messages": [{"role": "user"}]})"),
              HasSubstr("message 1 has no \"content\""));
  EXPECT_THAT(refusal(R"({"messages": [{"role": "user", "content": 5}]})"),
              HasSubstr("\"content\" is an integer"));
  EXPECT_THAT(refusal(R"({"tokens": [1, 2], "loss_mask": [1]})"),
              HasSubstr("has 2 entries and \"loss_mask\" 1"));
  EXPECT_THAT(refusal(R"({"tokens": [1, 99999], "loss_mask": [0, 1]})"),
              HasSubstr("tokens[1] = 99999 is outside of the vocabulary of 265"));
  EXPECT_THAT(refusal(R"({"tokens": [1, -1], "loss_mask": [0, 1]})"), HasSubstr("tokens[1] = -1"));
  EXPECT_THAT(refusal(R"({"tokens": [1, 18446744073709551615], "loss_mask": [0, 1]})"),
              HasSubstr("outside of the vocabulary"));
  EXPECT_THAT(refusal(R"({"tokens": [1, 2], "loss_mask": [0, 2]})"), HasSubstr("loss_mask[1] = 2"));
  EXPECT_THAT(refusal(R"({"tokens": [1, 2], "loss_mask": [1, 0]})"),
              HasSubstr("no token of this sample is trained"));
  EXPECT_THAT(refusal(R"({"tokens": [1, 2]})"), HasSubstr("needs a \"loss_mask\""));
  EXPECT_THAT(config_error([] { (void)parse_json("{\"text\": \"\\ud800\"}", "f:7"); }),
              HasSubstr("f:7: not valid JSON"));
}

TEST_F(Sample, AChatWhoseEndIsNotTrainedIsRefused) {
  template_.emplace(
      "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}{% if "
      "add_generation_prompt %}assistant: {% endif %}");
  EXPECT_THAT(
      refusal(
          R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})"),
      HasSubstr(
          "message 2 (assistant): the chat template writes no special token behind the turn"));
  EXPECT_THAT(
      refusal(
          R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b<|end|>c"}]})"),
      HasSubstr("no special token behind the turn"));
}

TEST_F(Sample, ATemplateThatRewritesEarlierTurnsIsRefused) {
  template_.emplace(
      "{% for m in messages %}<|user|>{{ m.content if loop.last else 'x' }}<|end|>{% endfor %}{% "
      "if add_generation_prompt %}<|user|>{% endif %}");
  EXPECT_THAT(
      refusal(
          R"({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]})"),
      HasSubstr(
          "f:7: message 2 (assistant): the chat template does not show what the message says"));
}

TEST_F(Sample, AnAnswerThatMergesWithTheTemplateIsRefused) {
  template_.emplace(
      "{% for m in messages %}{{ '<|user|>' + m.role + '\\n' + m.content + '<|end|>' }}{% endfor "
      "%}{% if add_generation_prompt %}{{ '<|user|>assistant\\n' }}{% endif %}");
  auto json = test::tiny_tokenizer_json();
  json["model"]["vocab"]["\xC4\x8A\xC4\x8A"] = 265;  // a token of two newlines
  json["model"]["merges"].push_back("\xC4\x8A \xC4\x8A");
  tokenizer_.emplace(Tokenizer::from_json(json.dump(), "t"));
  EXPECT_THAT(
      refusal(
          R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\n"}]})"),
      HasSubstr("message 2 (assistant) begins with text that the tokenizer joins"));
}

TEST_F(Sample, TokenizeReportsWhatTrainingRefuses) {
  template_.emplace("{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}");
  std::istringstream in(
      R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})"
      "\n");
  std::ostringstream out;
  (void)run_tokenize(in, out, *tokenizer_, &*template_);
  const Json answer = parse_json(out.str(), "out");
  EXPECT_EQ(answer["ids"].size(), std::string("user: aassistant: b").size());
  EXPECT_EQ(answer["doubts"].size(), 1u);
}

TEST_F(Sample, TokenizeSpeaksJsonLines) {
  std::istringstream in(
      "{\"text\": \"hello\"}\n\n{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], "
      "\"add_generation_prompt\": true}\n");
  std::ostringstream out;
  EXPECT_EQ(run_tokenize(in, out, *tokenizer_, &*template_), 0);
  EXPECT_EQ(out.str(),
            "{\"ids\":[259],\"loss_mask\":[0]}\n{\"ids\":[263,97,262,10,264],\"loss_mask\":[0,0,0,"
            "0,0]}\n");
  std::istringstream tokens(
      "{\"tokens\": [259, 262]}\n{\"tokens\": [259, 262], \"skip_special_tokens\": true}\n");
  std::ostringstream texts;
  (void)run_tokenize(tokens, texts, *tokenizer_, nullptr);
  EXPECT_EQ(texts.str(), "{\"text\":\"hello<|end|>\"}\n{\"text\":\"hello\"}\n");
  std::istringstream bad("{\"text\": \"a\"}\n{\"txet\": 1}\n");
  EXPECT_THAT(config_error([&] { run_tokenize(bad, out, *tokenizer_, nullptr); }),
              HasSubstr("stdin:2: a line must be"));
}

}  // namespace
}  // namespace tessera::data
