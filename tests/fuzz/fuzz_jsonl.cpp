// libFuzzer entry: a line of training data that may be anything.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "data/sample.h"
#include "tests/data/test_support.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tessera::data;
  static const test::TemporaryFolder folder;
  static const Tokenizer tokenizer = [] {
    test::write_model_folder(folder);
    return Tokenizer::load(folder.path());
  }();
  static const ChatTemplate chat_template(test::kTinyTemplate);
  try {
    const Json line = parse_json({reinterpret_cast<const char*>(data), size}, "fuzz:1");
    (void)encode_sample(line, tokenizer, &chat_template, "fuzz:1");
  } catch (const tessera::ConfigError&) {
  }
  return 0;
}
