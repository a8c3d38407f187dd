// `tokenize_tool MODEL_FOLDER`: the body of `tessera tokenize` alone, for the parity test.
#include <exception>
#include <iostream>

#include "data/tokenize_stream.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: tokenize_tool MODEL_FOLDER < JSONL\n";
    return 2;
  }
  try {
    const auto tokenizer = tessera::data::Tokenizer::load(argv[1]);
    const auto chat_template = tessera::data::ChatTemplate::load_if_present(argv[1]);
    return tessera::data::run_tokenize(std::cin, std::cout, tokenizer,
                                       chat_template ? &*chat_template : nullptr);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
