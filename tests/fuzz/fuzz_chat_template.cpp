// libFuzzer entry: a chat template that may be anything, over a fixed chat.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "data/chat_template.h"
#include "data/unicode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tessera::data;
  const std::string source = replace_invalid_utf8({reinterpret_cast<const char*>(data), size});
  static const Json messages = parse_json(
      R"([{"role": "system", "content": "s"}, {"role": "user", "content": "a\u00e9\n"}, {"role": "assistant", "content": " b ",
           "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1.5, "y": [null, true]}}}]}])",
      "fuzz");
  try {
    const ChatTemplate chat_template(source, {{"bos_token", "<s>"}}, "fuzz");
    (void)chat_template.render_with_answers(messages, {{"tools", messages}});
  } catch (const tessera::ConfigError&) {
  }
  return 0;
}
