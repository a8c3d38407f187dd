#include <iostream>

#include "data/tokenize_stream.h"
#include "launch/app.h"

namespace tessera::launch {

Command tokenize_command(CLI::App& cli) {
  auto model = std::make_shared<std::string>();
  cli.add_option("--model", *model, "folder with tokenizer.json")->required();
  return [model](App& app) {
    const auto tokenizer = data::Tokenizer::load(*model);
    const auto chat_template = data::ChatTemplate::load_if_present(*model);
    if (app.first()) data::run_tokenize(std::cin, std::cout, tokenizer, chat_template ? &*chat_template : nullptr);
  };
}

}  // namespace tessera::launch
