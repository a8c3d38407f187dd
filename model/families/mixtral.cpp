#include <algorithm>

#include "model/families/families.h"

namespace tessera::model {

void read_mixtral(const ConfigReader& reader, ModelConfig& c) {
  refuse_sliding_window(reader, true);
  if (reader.number("router_jitter_noise", 0) != 0) reader.fail("router_jitter_noise", "is not supported; set it to 0");
  c.num_key_value_heads = reader.integer("num_key_value_heads", 8);
  c.rms_norm_eps = reader.number("rms_norm_eps", 1e-5);
  c.rope = RopeConfig::read(reader, 1e6);
  c.moe.num_experts = reader.required_any({"num_local_experts", "num_experts"});
  c.moe.experts_per_token = reader.integer("num_experts_per_tok", 2);
  c.moe.intermediate_size = c.intermediate_size;
  c.moe.scoring = moe::Scoring::kSoftmax;
  c.moe.norm_topk_prob = true;
  c.moe_layers.assign(static_cast<size_t>(std::max<int64_t>(0, c.num_hidden_layers)), true);
  c.expert_names = {"block_sparse_moe", "w1", "w3", "w2"};
}

}  // namespace tessera::model
