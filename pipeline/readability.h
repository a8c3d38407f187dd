// Whether a completion can be read, for rejection sampling: DeepSeek-R1 (arXiv 2501.12948, section 2.3.3) leaves out mixed languages,
// long paragraphs and code blocks; here it is mixed scripts and repetition, which can be told without a model.
#pragma once

#include <string_view>

namespace tessera::pipeline {

enum class Readability {
  kReadable,
  kEmpty,
  kRepeated,      // more than half of at least 8 lines, or of at least 32 word 4-grams, have been there before
  kMixedScripts,  // of at least 20 letters, more than a tenth are in another script than most
};

/// `text`: valid UTF-8. Scripts are Latin, Greek, Cyrillic, Arabic and Hebrew, Indic, East Asian (Han, Kana and Hangul as one), others;
/// a few Greek letters in formulas stay below the tenth.
[[nodiscard]] Readability judge_readability(std::string_view text);

}  // namespace tessera::pipeline
