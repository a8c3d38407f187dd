#include <iostream>

#include "data/tokenize_stream.h"
#include "launch/app.h"

namespace tessera::launch {

Command tokenize_command(CLI::App& cli) {
  struct Options {
    std::string model;
    bool plain_content = false;
  };
  auto options = std::make_shared<Options>();
  cli.add_option("--model", options->model, "folder with tokenizer.json")->required();
  cli.add_flag("--plain-content", options->plain_content, "special tokens inside of messages and texts are text");
  return [options](App& app) {
    const auto tokenizer = data::Tokenizer::load(options->model);
    const auto chat_template = data::ChatTemplate::load_if_present(options->model);
    if (!app.first()) return;
    data::run_tokenize(std::cin, std::cout, tokenizer, chat_template ? &*chat_template : nullptr, options->plain_content);
  };
}

}  // namespace tessera::launch
