// Qwen3 with experts in most layers.
#include <algorithm>

#include "model/families/families.h"

namespace tessera::model {

void read_qwen3_moe(const ConfigReader& reader, ModelConfig& c) {
  refuse_sliding_window(reader, false);
  c.num_key_value_heads = reader.integer("num_key_value_heads", 4);
  c.attention_bias = c.attention_output_bias = reader.boolean("attention_bias", false);
  c.qk_norm = true;
  c.rope = RopeConfig::read(reader, 10000.0);
  c.moe.num_experts = reader.required_any({"num_experts", "num_local_experts"});
  c.moe.experts_per_token = reader.integer("num_experts_per_tok", 8);
  c.moe.intermediate_size = reader.integer("moe_intermediate_size", 768);
  c.moe.scoring = moe::Scoring::kSoftmax;
  c.moe.norm_topk_prob = reader.boolean("norm_topk_prob", false);
  const int64_t step = reader.integer("decoder_sparse_step", 1);
  if (step < 1) reader.fail("decoder_sparse_step", "must be 1 or more");
  const auto dense = reader.integers("mlp_only_layers");
  for (int64_t i = 0; i < c.num_hidden_layers; ++i)
    c.moe_layers.push_back(std::find(dense.begin(), dense.end(), i) == dense.end() && (i + 1) % step == 0);
}

}  // namespace tessera::model
