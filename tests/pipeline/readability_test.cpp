#include "pipeline/readability.h"

#include <gtest/gtest.h>

#include <string>

namespace tessera::pipeline {
namespace {

TEST(Readability, OrdinaryCompletionsAreReadable) {
  EXPECT_EQ(judge_readability("Answer: TRN-C1"), Readability::kReadable);
  EXPECT_EQ(judge_readability("<think>\nlet \xCE\xB1 be 2, then \xCE\xB1 + 1 = 3, which is what was asked for\n</think>\nAnswer: 3"), Readability::kReadable);
  EXPECT_EQ(judge_readability("Ответ на этот вопрос можно найти так: сложим оба числа."), Readability::kReadable);
  EXPECT_EQ(judge_readability("東京とソウルは大きな都市です。한국어도 있습니다。東京とソウルは大きな都市です。"), Readability::kReadable);
}

TEST(Readability, NothingIsEmpty) { EXPECT_EQ(judge_readability(" \n\t "), Readability::kEmpty); }

TEST(Readability, RepeatedLinesAndPhrases) {
  std::string lines, words, numbers;
  for (int i = 0; i < 8; ++i) lines += "so it is\n";
  for (int i = 0; i < 20; ++i) words += "wait let me ";
  for (int i = 0; i < 60; ++i) numbers += std::to_string(i) + " ";
  EXPECT_EQ(judge_readability(lines), Readability::kRepeated);
  EXPECT_EQ(judge_readability(words), Readability::kRepeated);
  EXPECT_EQ(judge_readability(numbers), Readability::kReadable);
  EXPECT_EQ(judge_readability("yes\nyes\nyes\n"), Readability::kReadable) << "too short to tell";
}

TEST(Readability, MixedScripts) {
  EXPECT_EQ(judge_readability("The answer 是由这两个数字相加得到的结果 is therefore twelve"), Readability::kMixedScripts);
  EXPECT_EQ(judge_readability("The word for peace is мир, and that is all there is to say of it here"), Readability::kReadable) << "below a tenth";
}

}  // namespace
}  // namespace tessera::pipeline
