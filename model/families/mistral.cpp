#include "model/families/families.h"

namespace tessera::model {

void read_mistral(const ConfigReader& reader, ModelConfig& c) {
  // Without the key the family's window is 4096 tokens.
  if (!reader.object().contains("sliding_window"))
    reader.fail("sliding_window", "is missing, which means 4096 tokens; set it to null if the text is shorter than that");
  refuse_sliding_window(reader, true);
  c.num_key_value_heads = reader.integer("num_key_value_heads", 8);
  c.rope = RopeConfig::read(reader, 10000.0);
}

}  // namespace tessera::model
