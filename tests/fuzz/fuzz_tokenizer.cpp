// libFuzzer entry: a tokenizer.json that may be anything, then a text through it.
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "data/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  try {
    const auto tokenizer = tessera::data::Tokenizer::from_json(input, "fuzz");
    const auto ids = tokenizer.encode(input);
    (void)tokenizer.decode(ids);
    (void)tokenizer.encode_ordinary(input.substr(0, 1000));
    std::vector<int64_t> ends;
    (void)tokenizer.encode(tokenizer.normalize(input), ends);
  } catch (const tessera::ConfigError&) {
  }
  return 0;
}
