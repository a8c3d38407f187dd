// `template_tool`: JSONL {"template", "variables", "messages", "add_generation_prompt", "extra"} on
// standard input to
// {"text"} or {"error"}, for tests/parity/chat_parity.py.
#include <exception>
#include <iostream>
#include <string>

#include "data/chat_template.h"

int main() {
  using tessera::data::Json;
  for (std::string line; std::getline(std::cin, line);) {
    Json answer;
    try {
      const Json in = tessera::data::parse_json(line, "stdin");
      const tessera::data::ChatTemplate chat(in["template"].get<std::string>(), in["variables"],
                                             "t");
      answer["text"] =
          chat.render(in["messages"], in["add_generation_prompt"].get<bool>(), in["extra"]);
    } catch (const tessera::ConfigError& error) {
      answer["error"] = error.what();
    }
    std::cout << answer.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  }
  return 0;
}
