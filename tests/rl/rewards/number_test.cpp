#include "rl/rewards/number.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <iterator>
#include <numbers>

#include "rl/rewards/units.h"
#include "test_support.h"

namespace tessera::rl {
namespace {

struct Stated {
  const char* text;
  double value;
  const char* unit = "";
};

class StatedQuantity : public testing::TestWithParam<Stated> {};

TEST_P(StatedQuantity, IsRead) {
  const auto found = parse_quantity(GetParam().text);
  ASSERT_TRUE(found) << GetParam().text;
  EXPECT_NEAR(found->value, GetParam().value, 1e-9 * std::abs(GetParam().value)) << GetParam().text;
  EXPECT_EQ(found->unit, GetParam().unit) << GetParam().text;
}

INSTANTIATE_TEST_SUITE_P(
    Number, StatedQuantity,
    testing::Values(
        Stated{"42", 42}, Stated{" 42. ", 42}, Stated{"-7", -7}, Stated{"+7", 7}, Stated{"− 7", -7},
        Stated{".5", 0.5}, Stated{"007", 7},
        // Separators.
        Stated{"1,250", 1250}, Stated{"1,250.5", 1250.5}, Stated{"1.250,5", 1250.5},
        Stated{"1,234,567", 1234567}, Stated{"1.234.567", 1234567},
        Stated{"1.234.567,89", 1234567.89}, Stated{"1.250", 1.25}, Stated{"1,5", 1.5},
        Stated{"0,125", 0.125}, Stated{"0.125", 0.125}, Stated{"1 000 000", 1e6},
        Stated{"1\u202f000,5", 1000.5}, Stated{"1'000", 1000}, Stated{"14{,}916", 14916},
        Stated{"12\\,500", 12500}, Stated{"1234,5678", 1234.5678},
        // Exponents, powers.
        Stated{"1.5e3", 1500}, Stated{"2E-3", 0.002}, Stated{"1e+2", 100},
        Stated{"1.2 \\times 10^{-3}", 0.0012}, Stated{"3 × 10³", 3000}, Stated{"3 x 10^3", 3000},
        Stated{"3*10^3", 3000}, Stated{"2^{10}", 1024}, Stated{"2^10", 1024}, Stated{"10⁻²", 0.01},
        // Fractions and closed forms.
        Stated{"3/4", 0.75}, Stated{"-3/4", -0.75}, Stated{"\\frac{3}{4}", 0.75},
        Stated{"-\\dfrac{3}{4}", -0.75}, Stated{"\\frac12", 0.5}, Stated{"3 1/2", 3.5},
        Stated{"-3 1/2", -3.5}, Stated{"2\\tfrac{1}{4}", 2.25}, Stated{"5½", 5.5},
        Stated{"\\left(\\frac{1}{3}\\right)", 1.0 / 3},
        Stated{"2\\sqrt{3}", 2 * std::numbers::sqrt3}, Stated{"\\sqrt[3]{27}", 3},
        Stated{"\\frac{\\sqrt{2}}{2}", std::numbers::sqrt2 / 2},
        Stated{"3\\pi", 3 * std::numbers::pi}, Stated{"\\frac{\\pi}{2}", std::numbers::pi / 2},
        Stated{"1+\\sqrt{2}", 1 + std::numbers::sqrt2},
        // Signs of mathematics, text and units around it.
        Stated{"$42$", 42}, Stated{"x = 42", 42}, Stated{"x = 6 \\cdot 7 = 42", 42},
        Stated{"\\(42\\)", 42}, Stated{"**42**", 42}, Stated{"12%", 12, "%"},
        Stated{"28\\%", 28, "%"}, Stated{"28 percent", 28, "percent"},
        Stated{"\\$1,000", 1000, "$"}, Stated{"$5", 5, "$"}, Stated{"-$5", -5, "$"},
        Stated{"5 €", 5, "€"}, Stated{"EUR 5", 5, "EUR"}, Stated{"5 km", 5, "km"},
        Stated{"5km", 5, "km"}, Stated{"5 \\text{ km/h}", 5, "km/h"}, Stated{"90^\\circ", 90, "°"},
        Stated{"1,000.99m²", 1000.99, "m^{2}"}, Stated{"3 red balls", 3, "red balls"},
        Stated{"42 apples", 42, "apples"}, Stated{"The answer is 42", 42},
        Stated{"about 5 km", 5, "km"}));

class StatesNone : public testing::TestWithParam<const char*> {};
TEST_P(StatesNone, IsNoQuantity) { EXPECT_FALSE(parse_quantity(GetParam())) << GetParam(); }
INSTANTIATE_TEST_SUITE_P(Number, StatesNone,
                         testing::Values("", "none", "12 or 13", "1, 2, 3", "12 and 13", "1.2.3",
                                         "AZYUK2A", "x2", "inf", "nan", "1/0", "\\frac{1}{0}",
                                         "6*7", "3+4", "3 + 4 - 1", "(9+1)", "1e999", "{{{{",
                                         "\\sqrt{-1}", "\\frac"));

TEST(Number, DeepNestingDoesNotExhaustTheStack) {
  EXPECT_EQ(parse_quantity(std::string(100000, '(') + "1")->value, 1);
  std::string fractions;
  for (int i = 0; i < 5000; ++i) fractions += "\\frac{";
  EXPECT_FALSE(parse_quantity(fractions));
}

TEST(Number, TheLastOfRunningText) {
  const auto last = [](const char* text) {
    const auto found = last_quantity(text);
    return found ? std::to_string(found->value).substr(0, 7) + found->unit : "none";
  };
  EXPECT_EQ(last("5 apples and 3 pears make 8."), "8.00000");
  EXPECT_EQ(last("so the price is $1,250.50."), "1250.50$");
  EXPECT_EQ(last("it drops to -5 °C"), "-5.0000°C");
  EXPECT_EQ(last("the loss is -$20"), "-20.000$");
  EXPECT_EQ(last("It is 42, as shown in CAR-A17"), "42.0000");
  EXPECT_EQ(last("10-5"), "5.00000");
  EXPECT_EQ(last("speed 12 km per hour in total"), "12.0000km per hour");
  EXPECT_EQ(last("thus \\frac{1}{4} of it"), "0.25000");
  EXPECT_EQ(last("in 2020 300 people"), "300.000");
  EXPECT_EQ(last("nothing"), "none");
}

TEST(Number, EqualUpToToleranceAndUnit) {
  const auto same = [](const char* given, const char* expected, double tolerance = 1e-6) {
    return same_quantity(parse_quantity(given).value(), parse_quantity(expected).value(),
                         tolerance);
  };
  EXPECT_TRUE(same("1000.0004", "1000", 1e-6));
  EXPECT_FALSE(same("1000.002", "1000", 1e-6));
  EXPECT_TRUE(same("1050", "1000", 0.05));
  EXPECT_FALSE(same("950", "1000", 0.04));
  EXPECT_TRUE(same("0", "0"));
  EXPECT_FALSE(same("1e-9", "0"));
  // Of the expected value, not of the greater one.
  EXPECT_FALSE(same("1.0", "0.95", 0.05));
  EXPECT_TRUE(same("5 km", "5000 m"));
  EXPECT_TRUE(same("0.5 kg", "500 g"));
  EXPECT_TRUE(same("1.5 h", "90 min"));
  EXPECT_TRUE(same("36 km/h", "10 m/s"));
  EXPECT_TRUE(same("1 l", "1000 cm^3"));
  EXPECT_TRUE(same("2 square meters", "20000 cm²"));
  EXPECT_FALSE(same("5 km", "5 m"));
  EXPECT_FALSE(same("5 kg", "5 km"));
  EXPECT_TRUE(same("5", "5 km"));
  EXPECT_TRUE(same("5 km", "5"));
  EXPECT_FALSE(same("5000", "5 km"));
  EXPECT_FALSE(same("$5", "€5"));
  EXPECT_TRUE(same("5 dollars", "\\$5"));
  EXPECT_TRUE(same("28", "28%"));
  EXPECT_TRUE(same("28%", "0.28"));
  EXPECT_TRUE(same("0.28", "28%"));
  EXPECT_FALSE(same("28", "0.28"));
  EXPECT_FALSE(same("0.28%", "28%"));
  EXPECT_TRUE(same("3 apples", "3 apple"));
  EXPECT_FALSE(same("3 apples", "3 pears"));
}

TEST(Number, AnyTextIsReadInReasonableTimeAndOnlyFiniteValuesComeOut) {
  const char* pieces[] = {"1",  "23",       "456",     ",",  ".",   " ", "'",      "-",
                          "+",  "/",        "*",       "^",  "e",   "%", "$",      "€",
                          "km", "m/s",      "(",       ")",  "{",   "}", "\\frac", "\\sqrt",
                          "π",  "\\boxed{", "\\text{", "\\", "²",   "⁻", "\xff",   "\n",
                          "×",  "10^",      "=",       "½",  "and", "A", "~"};
  uint64_t state = 12345;
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (int i = 0; i < 12; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      text += pieces[(state >> 33) % std::size(pieces)];
    }
    for (const auto& found : {parse_quantity(text), last_quantity(text)}) {
      if (!found) continue;
      ASSERT_TRUE(std::isfinite(found->value)) << text;
      ASSERT_TRUE(found->value == 0 || same_quantity(*found, *found, 1e-9)) << text;
    }
  }
  std::string book;
  for (int i = 0; i < 20000; ++i) book += "then 12 km and $1,250 give x7 = \\frac{1}{2} ";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(last_quantity(book)->value, 0.5);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(3));
}

TEST(Units, KeepTheirCaseAndPlurals) {
  EXPECT_EQ(find_unit("mg")->dimension, "mass");
  EXPECT_FALSE(find_unit("Mg"));
  EXPECT_NE(find_unit("mW").has_value(), true);
  EXPECT_EQ(find_unit("Kilometers")->factor, 1000);
  EXPECT_EQ(find_unit("minutes")->factor, 60);
  EXPECT_NEAR(find_unit("m/s^2")->factor, 1, 1e-12);
  EXPECT_EQ(find_unit("m/s^2")->dimension, "length/time^2");
  EXPECT_FALSE(find_unit("apples"));
  EXPECT_FALSE(find_unit(""));
  EXPECT_FALSE(find_unit("km apples"));
}

TEST(NumericReward, ReadsBoxedThenTaggedThenTheLastNumber) {
  const RewardConfig config{.name = "numeric"};
  const nlohmann::json sample = {{"answer", "42"}};
  EXPECT_EQ(score_one(config, sample, "\\boxed{42} and 43").value, 1);
  EXPECT_EQ(score_one(config, sample, "\\boxed{41}, no, \\boxed{42}").value, 1);
  EXPECT_EQ(score_one(config, sample, "\\boxed{42}, no, \\boxed{41}").value, 0);
  EXPECT_EQ(score_one(config, sample, "\\boxed{\\text{it is } 42}").value, 1);
  EXPECT_EQ(score_one(config, sample, "\\boxed{\\frac{84}{2}}").value, 1);
  EXPECT_EQ(score_one(config, sample, "<answer>42</answer> 43").value, 1);
  EXPECT_EQ(score_one(config, sample, "<answer>41</answer> \\boxed{42}").value, 1);
  EXPECT_EQ(score_one(config, sample, "<answer>\\boxed{42}</answer>").value, 1);
  EXPECT_EQ(score_one(config, sample, "6 times 7 is 42.").value, 1);
  EXPECT_EQ(score_one(config, sample, "42 is 6 times 7.").value, 0);
  EXPECT_EQ(score_one(config, sample, "\\boxed{42 or 43}").value, 0) << "several guesses";
  EXPECT_EQ(score_one(config, sample, "\\boxed{none} 42").value, 0) << "what is marked counts";
  EXPECT_EQ(score_one(config, sample, "\\boxed{6 \\cdot 7}").value, 0) << "not computed";
  EXPECT_EQ(score_one(config, sample, "").value, 0);
}

TEST(NumericReward, LooksBehindTheThinkingOnly) {
  const RewardConfig config{.name = "numeric"};
  const nlohmann::json sample = {{"answer", 42}};
  EXPECT_EQ(score_one(config, sample, "<think>42</think>The answer is 42").value, 1);
  EXPECT_EQ(score_one(config, sample, "<think>\\boxed{42}</think>It is 41").value, 0);
  EXPECT_EQ(score_one(config, sample, "<think>so it is 42").value, 0);
  EXPECT_EQ(score_one(config, sample, "so it is 42", true, true).value, 0) << "still thinking";
  EXPECT_EQ(score_one(config, sample, "so it is 41</think>42", true, true).value, 1);
  EXPECT_EQ(score_one(config, sample, "41</think>41</think>42").value, 1);
}

TEST(NumericReward, TakesNoLooseNumberOfATextThatWasCutOff) {
  const RewardConfig config{.name = "numeric"};
  const nlohmann::json sample = {{"answer", "42"}};
  EXPECT_EQ(score_one(config, sample, "the sum is 42", false).value, 0);
  EXPECT_EQ(score_one(config, sample, "the sum is \\boxed{42} and", false).value, 1);
}

TEST(NumericReward, ReferencesMayBeNumbersSolutionsOrBoxed) {
  EXPECT_EQ(score_one({.name = "numeric"}, {{"answer", 0.5}}, "1/2").value, 1);
  EXPECT_EQ(
      score_one({.name = "numeric"}, {{"answer", "2 + 3 = 5 dollars\n#### 5"}}, "\\boxed{5}").value,
      1);
  EXPECT_EQ(score_one({.name = "numeric"}, {{"answer", "so $\\boxed{5}$"}}, "5").value, 1);
  EXPECT_EQ(
      score_one({.name = "numeric", .field = "gold"}, {{"gold", "5"}, {"answer", "6"}}, "5").value,
      1);
  EXPECT_EQ(score_one({.name = "numeric", .tolerance = 0.1}, {{"answer", "100"}}, "95").value, 1);
  EXPECT_EQ(score_one({.name = "numeric", .tolerance = 0.01}, {{"answer", "100"}}, "95").value, 0);
  const auto missing = score_one({.name = "numeric"}, {{"solution", "5"}}, "5");
  EXPECT_TRUE(missing.failed);
  EXPECT_THAT(missing.error, testing::HasSubstr("no field 'answer'"));
  const auto words = score_one({.name = "numeric"}, {{"answer", "five"}}, "5");
  EXPECT_TRUE(words.failed)
      << "a sample whose reference cannot be read says nothing about the model";
  EXPECT_THAT(words.error, testing::HasSubstr("is no number: five"));
}

}  // namespace
}  // namespace tessera::rl
