// tokenizer.json's "post_processor": the special tokens that go around a whole text, as Llama 3's
// <|begin_of_text|>.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

namespace tessera::data {

struct Affixes {
  std::vector<int32_t> before, behind;
};

/// The ids around a single text: null, ByteLevel (none), TemplateProcessing, BertProcessing,
/// RobertaProcessing and a Sequence of them. Throws ConfigError, opening with `where`, for anything
/// else.
[[nodiscard]] Affixes read_post_processor(const nlohmann::json& spec, std::string_view where);

}  // namespace tessera::data
