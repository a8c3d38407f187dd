#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rl/rewards/language.h"
#include "test_support.h"

namespace tessera::rl {
namespace {

double format(const char* pattern, const char* completion, bool thinking_open = false) {
  return score_one({.name = "format", .pattern = pattern}, {}, completion, true, thinking_open)
      .value;
}

TEST(FormatReward, ThinksOnceThenAnswers) {
  for (const char* pattern : {"", "think"}) {
    EXPECT_EQ(format(pattern, "<think>hm</think>42"), 1);
    EXPECT_EQ(format(pattern, "\n<think>\nhm\n</think>\n\n42\n"), 1);
    EXPECT_EQ(format(pattern, "42"), 0);
    EXPECT_EQ(format(pattern, "<think>hm</think>"), 0) << "no answer";
    EXPECT_EQ(format(pattern, "<think>hm</think> \n"), 0) << "no answer";
    EXPECT_EQ(format(pattern, "<think> </think>42"), 0) << "no thought";
    EXPECT_EQ(format(pattern, "<think>hm"), 0);
    EXPECT_EQ(format(pattern, "hm</think>42"), 0);
    EXPECT_EQ(format(pattern, "Well, <think>hm</think>42"), 0) << "text in front";
    EXPECT_EQ(format(pattern, "<think>a</think><think>b</think>42"), 0);
    EXPECT_EQ(format(pattern, "<think>a</think>42</think>"), 0);
  }
}

TEST(FormatReward, TemplatesMayOpenTheThinking) {
  EXPECT_EQ(format("think", "hm</think>42", true), 1);
  EXPECT_EQ(format("think", "<think>hm</think>42", true), 0) << "opened twice";
  EXPECT_EQ(format("think", "</think>42", true), 0);
  EXPECT_EQ(format("think", "42", true), 0);
}

TEST(FormatReward, TagsAndBoxes) {
  EXPECT_EQ(format("think-answer", "<think>hm</think>\n<answer>42</answer>"), 1);
  EXPECT_EQ(format("think-answer", "hm</think>\n<answer>42</answer>\n", true), 1);
  EXPECT_EQ(format("think-answer", "<think>hm</think>42"), 0);
  EXPECT_EQ(format("think-answer", "<think>hm</think><answer> </answer>"), 0);
  EXPECT_EQ(format("think-answer", "<think>hm</think>x<answer>42</answer>"), 0);
  EXPECT_EQ(format("think-answer", "<think>hm</think><answer>42</answer>x"), 0);
  EXPECT_EQ(format("think-answer", "<think>hm</think><answer>4</answer><answer>2</answer>"), 0);
  EXPECT_EQ(format("think-answer", "<answer>42</answer>"), 0);
  EXPECT_EQ(format("boxed", "so \\boxed{42}"), 1);
  EXPECT_EQ(format("boxed", "so \\boxed{ }"), 0);
  EXPECT_EQ(format("boxed", "so 42"), 0);
  EXPECT_EQ(format("boxed", "<think>\\boxed{42}</think>42"), 0);
  EXPECT_EQ(format("boxed", "\\boxed{42}", true), 0) << "still thinking";
}

TEST(LengthReward, FallsLinearlyBehindTheTarget) {
  const RewardConfig config{.name = "length", .target_length = 100, .max_length = 200};
  const auto at = [&](int64_t tokens, bool stopped = true) {
    return score_one(config, {}, "x", stopped, false, tokens).value;
  };
  EXPECT_EQ(at(0), 0);
  EXPECT_EQ(at(100), 0);
  EXPECT_DOUBLE_EQ(at(125), -0.25);
  EXPECT_DOUBLE_EQ(at(200), -1);
  EXPECT_DOUBLE_EQ(at(900), -1);
  EXPECT_EQ(at(50, false), -1) << "did not stop by itself";
}

struct Spoken {
  const char* language;
  const char* text;
};

const Spoken kTexts[] = {
    {"en",
     "We need to find the number of apples. Let us first count them, and then add the pears that "
     "she has."},
    {"de",
     "Wir müssen die Zahl der Äpfel finden. Dann zählen wir die Birnen und addieren sie zu den "
     "Äpfeln."},
    {"fr",
     "Nous devons trouver le nombre de pommes. Ensuite il faut ajouter les poires qui sont dans la "
     "boîte."},
    {"es",
     "Tenemos que encontrar el número de manzanas. Después hay que sumar las peras que están en la "
     "caja."},
    {"it",
     "Dobbiamo trovare il numero di mele. Poi si aggiungono le pere che sono nella scatola, quindi "
     "il totale è dieci."},
    {"pt",
     "Temos que encontrar as maçãs. Depois não se somam os limões que são da caixa, então isso é "
     "tudo."},
    {"nl",
     "We moeten het aantal appels vinden. Dan tellen we de peren die niet in de doos zijn en dus "
     "is het tien."},
    {"pl",
     "Musimy znaleźć liczbę jabłek. Potem dodajemy gruszki, które są w pudełku, więc jest ich "
     "dziesięć."},
    {"sv", "Vi har att hitta antalet äpplen som inte är för stora. Därför är det också så."},
    {"da", "Vi skal finde ud af hvor mange æbler der ikke er på bordet. Derfor er det også så."},
    {"fi", "Omenat ovat laatikossa ja päärynät eivät. Siis niin se on, mutta kun ne voi laskea."},
    {"tr", "Elmalar için bir kutu var ve armutlar da daha çok. Eğer doğru ise sonra toplarız."},
    {"zh", "我们需要先数苹果的数量，然后把梨的数量加上去，最后得到答案。"},
    {"ja", "まずりんごの数を数えて、それから梨の数を足します。答えは十です。"},
    {"ko", "먼저 사과의 수를 세고 배의 수를 더합니다."},
    {"ru", "Сначала нужно посчитать яблоки, а потом прибавить груши."},
    {"ar", "أولا نحسب عدد التفاح ثم نضيف عدد الكمثرى"},
    {"el", "Πρώτα μετράμε τα μήλα και μετά προσθέτουμε τα αχλάδια."},
    {"he", "קודם נספור את התפוחים ואז נוסיף את האגסים"},
    {"th", "ก่อนอื่นเรานับแอปเปิล"},
    {"hi", "पहले हम सेब गिनते हैं फिर नाशपाती जोड़ते हैं"},
};

TEST(Language, EachIsTakenForItselfAndForNoOther) {
  for (const Spoken& text : kTexts)
    for (const Spoken& asked : kTexts) {
      const double share = language_share(text.text, asked.language);
      if (std::string(text.language) == asked.language) {
        EXPECT_GE(share, 0.9) << text.language;
      } else {
        EXPECT_LE(share, 0.1) << text.language << " taken for " << asked.language;
      }
    }
}

TEST(Language, MixturesGetTheirShare) {
  // Ten English words and ten characters.
  const std::string mixed = "We need to find the number of apples first then. 我们需要先数苹果的量";
  EXPECT_NEAR(language_share(mixed, "en"), 0.5, 1e-9);
  EXPECT_NEAR(language_share(mixed, "zh"), 0.5, 1e-9);
  EXPECT_EQ(language_share(mixed, "de"), 0);
}

TEST(Language, FormulasAndCodeDoNotCount) {
  EXPECT_EQ(
      language_share(
          "设 x 为数量，则 $x + \\text{the and is} = 5$，所以 a = b。\n```\nfor the in of:\n```",
          "zh"),
      1);
  EXPECT_EQ(language_share("", "en"), 0);
  EXPECT_EQ(language_share("1 + 2 = 3", "en"), 0);
  EXPECT_EQ(language_share("\xff\xfe the number is not that", "en"), 1);
}

TEST(LanguageReward, LooksAtTheThinking) {
  const RewardConfig config{.name = "language", .language = "en"};
  EXPECT_EQ(score_one(config, {}, "<think>This is the way that we need.</think>我们需要先数").value,
            1);
  EXPECT_EQ(
      score_one(config, {}, "我们需要先数</think>This is the way that we need.", true, true).value,
      0);
  EXPECT_EQ(score_one(config, {}, "This is the way that we need.").value, 1)
      << "without thinking, the answer";
}

}  // namespace
}  // namespace tessera::rl
