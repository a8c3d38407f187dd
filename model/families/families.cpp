#include "model/families/families.h"

#include <array>

namespace tessera::model {

namespace {

constexpr std::array kFamilies = {
    Family{"deepseek_v2", read_deepseek_v2}, Family{"deepseek_v3", read_deepseek_v3}, Family{"llama", read_llama},
    Family{"mistral", read_mistral},         Family{"mixtral", read_mixtral},         Family{"qwen2", read_qwen2},
    Family{"qwen3", read_qwen3},             Family{"qwen3_moe", read_qwen3_moe},
};

}  // namespace

const Family* find_family(const std::string& model_type) {
  for (const Family& family : kFamilies)
    if (model_type == family.model_type) return &family;
  return nullptr;
}

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const Family& family : kFamilies) names.emplace_back(family.model_type);
  return names;
}

void refuse_sliding_window(const ConfigReader& reader, bool in_use) {
  if (reader.has("sliding_window") && reader.boolean("use_sliding_window", in_use))
    reader.fail("sliding_window", "is not supported; set it to null if the text is shorter than the window");
}

}  // namespace tessera::model
