// The model families: for each model_type of a config.json, the reader of what is its own. A new family is a file here, a
// declaration and a line of the table in families.cpp.
#pragma once

#include <string>
#include <vector>

#include "model/config.h"

namespace tessera::model {

struct Family {
  const char* model_type;
  /// Reads the family's keys into a config whose common keys are read; throws ConfigError for what is not supported.
  void (*read)(const ConfigReader& reader, ModelConfig& config);
};

/// Null when unknown.
[[nodiscard]] const Family* find_family(const std::string& model_type);
[[nodiscard]] std::vector<std::string> family_names();

void read_deepseek_v2(const ConfigReader& reader, ModelConfig& config);
void read_deepseek_v3(const ConfigReader& reader, ModelConfig& config);
void read_llama(const ConfigReader& reader, ModelConfig& config);
void read_mistral(const ConfigReader& reader, ModelConfig& config);
void read_mixtral(const ConfigReader& reader, ModelConfig& config);
void read_qwen2(const ConfigReader& reader, ModelConfig& config);
void read_qwen3(const ConfigReader& reader, ModelConfig& config);
void read_qwen3_moe(const ConfigReader& reader, ModelConfig& config);

// Shared by several readers.

/// What transformers takes for keys that are not there.
struct DeepseekDefaults {
  int64_t first_dense = 0, shared_experts = 0;
};
/// MLA and the DeepSeek way of placing experts.
void read_deepseek_common(const ConfigReader& reader, const DeepseekDefaults& defaults, ModelConfig& config);
/// Refuses a sliding window; `in_use` is whether the family uses the one it has when the config does not say.
void refuse_sliding_window(const ConfigReader& reader, bool in_use);

}  // namespace tessera::model
