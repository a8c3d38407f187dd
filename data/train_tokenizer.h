// `tessera train-tokenizer`: text files in, a folder with tokenizer.json and tokenizer_config.json
// out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace tessera::data {

struct TrainTokenizerOptions {
  std::vector<std::string> inputs;  // .txt, .jsonl, folders of them
  std::filesystem::path output;
  int64_t vocab_size = 0;
  std::string pattern = "deepseek";  // how text is split into words: deepseek, llama3 or gpt2
  int64_t min_frequency = 2;
  std::string bos = "<|begin|>", eos = "<|end|>", pad = "<|pad|>";
  std::vector<std::string> special_tokens;  // more of them
  int threads = 1;
};

struct TrainTokenizerStats {
  int64_t bytes, words, different_words, vocab_size;
};

/// Writes the folder. Of .jsonl lines the texts of "text", "prompt", "completion" and "messages"
/// count, each by itself. The same inputs and options give the same files, whatever the threads.
/// Throws ConfigError.
TrainTokenizerStats train_tokenizer(const TrainTokenizerOptions& options);

}  // namespace tessera::data
