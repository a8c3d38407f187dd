// Llama 2 and 3, SmolLM2, DeepSeek-R1-Distill-Llama.
#include "model/families/families.h"

namespace tessera::model {

void read_llama(const ConfigReader& reader, ModelConfig& c) {
  refuse_sliding_window(reader, true);
  c.attention_bias = c.attention_output_bias = reader.boolean("attention_bias", false);
  c.mlp_bias = reader.boolean("mlp_bias", false);
  c.rope = RopeConfig::read(reader, 10000.0);
}

}  // namespace tessera::model
