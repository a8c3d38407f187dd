// Learns the merges of a byte-level BPE from the words of a corpus.
//
// The pair of neighbouring tokens that occurs most often becomes a token, again and again. Among
// pairs that occur equally often the one with the smallest (left id, right id) comes first, and ids
// are given in the order special tokens, the 256 bytes (by their characters in tokenizer.json),
// merges: the rule of Hugging Face's BpeTrainer, so that the same words give the same merges. The
// result depends on the words and their counts only.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "data/pre_tokenizer.h"

namespace tessera::data {

/// Words and how often they occur.
using WordCounts = std::unordered_map<std::string, int64_t>;

/// The words of valid UTF-8 texts, counted on `threads` threads.
[[nodiscard]] WordCounts count_words(const std::vector<std::string_view>& texts,
                                     const PreTokenizer& pre_tokenizer, int threads);

struct BpeTrainerOptions {
  int64_t vocab_size = 0;                   // at most, with special tokens
  int64_t min_frequency = 2;                // a pair that occurs less often is not merged
  std::vector<std::string> special_tokens;  // the first ids
};

struct TrainedBpe {
  std::vector<std::string> tokens;                  // by id, as tokenizer.json spells them
  std::vector<std::pair<int32_t, int32_t>> merges;  // in rank order
};

/// Throws ConfigError when vocab_size has no room for the special tokens and the bytes, and on a
/// token that is special twice.
[[nodiscard]] TrainedBpe train_bpe(const WordCounts& words, const BpeTrainerOptions& options);

}  // namespace tessera::data
