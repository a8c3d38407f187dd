// The template language beyond what chat_test.cpp shows; expected texts are Jinja2's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/chat_template.h"
#include "tests/data/test_support.h"

namespace tessera::data {
namespace {

using test::config_error;
using testing::HasSubstr;

std::string render(const std::string& source, const std::string& variables = "{}") {
  return ChatTemplate(source, Json::object(), "t.jinja")
      .render(Json::array(), false, parse_json(variables, "v"));
}

TEST(Jinja, Operators) {
  EXPECT_EQ(
      render(
          "{{ 1 < 2 < 3 }}{{ 1 < 2 > 3 }}{{ 2 ** 10 }}{{ 'ab' * 2 }}{{ true + 1 }}{{ 1 == true }}"),
      "TrueFalse1024abab2True");
  EXPECT_EQ(render("{{ [1, 2] < [1, 3] }}{{ 'a' in ['a'] }}{{ -7 // 2 }}{{ 7.5 % 2 }}"),
            "TrueTrue-41.5");
  EXPECT_EQ(render("{{ 'x' is in 'xyz' }}{{ 3 is gt 2 }}{{ 4 is divisibleby 2 }}{{ 'a' is not "
                   "sameas 'b' }}"),
            "TrueTrueTrueTrue");
  EXPECT_EQ(render("{{ range is callable }}{{ strftime_now is defined }}{{ tools is none }}{{ x is "
                   "undefined }}"),
            "TrueTrueTrueTrue");
}

TEST(Jinja, SlicesFromBothEnds) {
  EXPECT_EQ(render("{{ [1,2,3,4][::-1] }}{{ [1,2,3,4][::2] }}{{ 'abc'[::-1] }}{{ [1,2,3][-2:] }}{{ "
                   "[1][5:] }}"),
            "[4, 3, 2, 1][1, 3]cba[2, 3][]");
}

TEST(Jinja, Filters) {
  EXPECT_EQ(render("{{ ['b','a','B'] | sort }}{{ ['b','a','B'] | unique | list }}{{ [3,1] | max "
                   "}}{{ [1,2] | sum }}"),
            "['a', 'b', 'B']['b', 'a']33");
  EXPECT_EQ(render("{{ {'b': 1, 'A': 2} | dictsort }}{{ {'b': 1} | items | list }}"),
            "[['A', 2], ['b', 1]][['b', 1]]");
  EXPECT_EQ(render("{{ 'a-b c' | title }}{{ ' x ' | trim }}{{ '3.7' | int }}{{ 'x' | int(5) }}{{ "
                   "2.5 | round | int }}"),
            "A-B Cx352");
  EXPECT_EQ(render("{{ 'a\\nb' | indent(2) }}|{{ 'a\\nb' | indent(2, true) }}"), "a\n  b|  a\n  b");
  EXPECT_EQ(render("{{ x | map(attribute='a.b') | join('-') }}{{ x | selectattr('a.b', 'gt', 1) | "
                   "list | length }}",
                   R"({"x": [{"a": {"b": 1}}, {"a": {"b": 2}}]})"),
            "1-21");
  EXPECT_EQ(render("{{ ['a', 'b'] | map('upper') | list }}{{ [1, none, 2] | reject('none') | list "
                   "}}{{ 'abc' | reverse }}"),
            "['A', 'B'][1, 2]cba");
  EXPECT_EQ(render("{{ x | tojson(ensure_ascii=true) }}{{ x | tojson(separators=(',', ':'), "
                   "sort_keys=true) }}",
                   R"({"x": {"b": "é", "a": [1, 2]}})"),
            "{\"b\": \"\\u00e9\", \"a\": [1, 2]}{\"a\":[1,2],\"b\":\"é\"}");
  EXPECT_EQ(render("{{ '<a&b>' | e }}{{ -3 | abs }}{{ 'é' | upper }}{{ 'ß' | upper }}"),
            "&lt;a&amp;b&gt;3\xC3\x89SS");
}

TEST(Jinja, StringMethods) {
  EXPECT_EQ(render("{{ 'a,b,c'.rsplit(',', 1) }}{{ 'a  b '.split() }}{{ 'xxax'.strip('x') }}{{ "
                   "'abc'.find('c') }}"),
            "['a,b', 'c']['a', 'b']a2");
  EXPECT_EQ(render("{{ 'a=b=c'.partition('=') }}{{ 'a\\nb'.splitlines() }}{{ "
                   "'preX'.removeprefix('pre') }}{{ '7'.zfill(3) }}"),
            "['a', '=', 'b=c']['a', 'b']X007");
  EXPECT_EQ(render("{{ 'ab'.startswith(('x', 'a')) }}{{ '12'.isdigit() }}{{ ','.join(['a', 'b']) "
                   "}}{{ {'a': 1}.get('b', 2) }}"),
            "TrueTruea,b2");
}

TEST(Jinja, Blocks) {
  EXPECT_EQ(render("{% set x %}a{{ 1 }}{% endset %}{{ x }}{% set y | upper %}b{% endset %}{{ y }}"),
            "a1B");
  EXPECT_EQ(render("{% filter upper | trim %} a {% endfilter %}{% with a = 1, b = 2 %}{{ a + b "
                   "}}{% endwith %}{{ a }}"),
            "A3");
  EXPECT_EQ(render("{% raw %}{{ x }}{% endraw %}"), "{{ x }}");
  EXPECT_EQ(render("{% generation %}{% set x = 1 %}a{% endgeneration %}{{ x }}"), "a");
  EXPECT_EQ(render("{% macro row(x) %}<{{ caller(x) }}>{% endmacro %}{% set y = 2 %}"
                   "{% call(v) row(1) %}{{ v }}{{ y }}{% endcall %}"),
            "<12>");
  EXPECT_EQ(
      render(
          "{% macro f(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ f is defined }}{{ f(b=1, a=2) }}"),
      "True21");
  EXPECT_EQ(render("{% for a in [1, 2, 3] %}{% if a == 2 %}{% continue %}{% endif %}{{ "
                   "loop.previtem }}{{ a }}"
                   "{{ loop.nextitem }}{{ loop.cycle('x', 'y') }}{% endfor %}"),
            "12x23x");
  EXPECT_EQ(render("{% set ns = namespace() %}{% set ns.a %}b{% endset %}{{ ns.a }}"), "b");
}

TEST(Jinja, TodayIsKnown) { EXPECT_EQ(render("{{ strftime_now('%Y') }}").size(), 4u); }

TEST(Jinja, MessagesAreReadAsTransformersDoes) {
  const ChatTemplate t(
      "{% for m in messages %}{{ m.content is defined }}{{ m.reasoning_content }}{{ m.thinking "
      "}}{% endfor %}");
  EXPECT_EQ(
      t.render(parse_json(R"([{"role": "a", "content": null, "reasoning": "r"}])", "m"), false),
      "Falserr");
}

TEST(Jinja, RefusalsSayWhat) {
  EXPECT_THAT(config_error([] { (void)render("{{ 'a' * 100000000 }}"); }), HasSubstr("too large"));
  EXPECT_THAT(config_error([] { (void)render("{{ ('a' * 1000000) | replace('a', 'b' * 100) }}"); }),
              HasSubstr("replace makes a text that is too large"));
  EXPECT_THAT(config_error([] { (void)render("{{ range(40000) | join('b' * 1000000) }}"); }),
              HasSubstr("join makes a text that is too large"));
  EXPECT_THAT(config_error([] { (void)render("{{ range(90000) | unique | list }}"); }),
              HasSubstr("does not come to an end"));
  EXPECT_THAT(config_error([] { (void)render("{{ f() }}"); }),
              HasSubstr("the function 'f' is not supported"));
  EXPECT_THAT(config_error([] { (void)render("{{ 1 is frobnicated }}"); }),
              HasSubstr("the test 'frobnicated'"));
  EXPECT_THAT(config_error([] { (void)render("{{ ''.format(1) }}"); }),
              HasSubstr("the method 'format' of a string"));
  EXPECT_THAT(config_error([] { (void)render("{% do x %}"); }),
              HasSubstr("{% do %} is not supported"));
  EXPECT_THAT(config_error([] { (void)render("{{ [1, 'a'] | sort }}"); }),
              HasSubstr("have no order"));
}

}  // namespace
}  // namespace tessera::data
