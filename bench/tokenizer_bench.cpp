// Encodes text files on one core: bench/tokenizer_bench.py runs it beside Hugging Face's
// tokenizers.
//   tokenizer_bench MODEL_FOLDER FILE [REPEATS]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "core/file.h"
#include "data/tokenizer.h"

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: tokenizer_bench MODEL_FOLDER FILE [REPEATS]\n");
    return 2;
  }
  try {
    const std::string text = tessera::read_text_file(argv[2]);
    // Documents of about 4 KB, as in training data.
    std::vector<std::string_view> documents;
    for (std::string_view rest = text; !rest.empty();) {
      const size_t end =
          std::min(rest.find('\n', std::min<size_t>(4096, rest.size() - 1)), rest.size() - 1) + 1;
      documents.push_back(rest.substr(0, end));
      rest.remove_prefix(end);
    }
    for (int repeat = 0; repeat < (argc > 3 ? std::stoi(argv[3]) : 5); ++repeat) {
      // A tokenizer of its own for each pass: no word is remembered from the last one.
      const auto tokenizer = tessera::data::Tokenizer::load(argv[1]);
      const auto begin = std::chrono::steady_clock::now();
      size_t ids = 0;
      for (const auto document : documents) ids += tokenizer.encode(document).size();
      const double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      std::printf("%.2f %zu\n", static_cast<double>(text.size()) / seconds / 1e6, ids);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
