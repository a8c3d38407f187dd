// Qwen2 and Qwen2.5, DeepSeek-R1-Distill-Qwen: biases on q, k and v only.
#include "model/families/families.h"

namespace tessera::model {

void read_qwen2(const ConfigReader& reader, ModelConfig& c) {
  refuse_sliding_window(reader, false);
  c.attention_bias = true;
  c.rope = RopeConfig::read(reader, 10000.0);
}

}  // namespace tessera::model
