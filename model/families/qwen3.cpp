// Qwen3: normalised query and key heads.
#include "model/families/families.h"

namespace tessera::model {

void read_qwen3(const ConfigReader& reader, ModelConfig& c) {
  refuse_sliding_window(reader, false);
  c.head_dim = reader.integer("head_dim", 128);
  c.attention_bias = c.attention_output_bias = reader.boolean("attention_bias", false);
  c.qk_norm = true;
  c.rope = RopeConfig::read(reader, 10000.0);
}

}  // namespace tessera::model
