// DeepSeek-V2 and V2-Lite, and what DeepSeek-V3 has in common with them.
#include "model/families/families.h"

namespace tessera::model {

namespace {

void read_experts(const ConfigReader& reader, const DeepseekDefaults& defaults, ModelConfig& c) {
  c.moe.num_experts = reader.required_any({"n_routed_experts", "num_local_experts", "num_experts"});
  c.moe.experts_per_token = reader.required("num_experts_per_tok");
  c.moe.intermediate_size = reader.required("moe_intermediate_size");
  const bool absent = !reader.object().contains("n_shared_experts");  // null means none
  c.moe.shared_intermediate_size = reader.integer("n_shared_experts", absent ? defaults.shared_experts : 0) * c.moe.intermediate_size;
  c.moe.routed_scaling_factor = reader.number("routed_scaling_factor", 1.0);
  const int64_t first = reader.integer("first_k_dense_replace", defaults.first_dense), frequency = reader.integer("moe_layer_freq", 1);
  if (frequency < 1) reader.fail("moe_layer_freq", "must be 1 or more");
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) c.moe_layers.push_back(i >= first && i % frequency == 0);
}

}  // namespace

void read_deepseek_common(const ConfigReader& reader, const DeepseekDefaults& defaults, ModelConfig& c) {
  refuse_sliding_window(reader, true);
  c.attention = AttentionKind::kLatent;
  c.latent = {.q_lora_rank = reader.integer("q_lora_rank", 0), .kv_lora_rank = reader.required("kv_lora_rank"),
              .qk_nope_head_dim = reader.required("qk_nope_head_dim"), .qk_rope_head_dim = reader.required("qk_rope_head_dim"),
              .v_head_dim = reader.required("v_head_dim")};
  c.attention_bias = c.attention_output_bias = reader.boolean("attention_bias", false);
  c.rope = RopeConfig::read(reader, 10000.0);
  c.rope.neighbours = reader.boolean("rope_interleave", true);
  read_experts(reader, defaults, c);
}

void read_deepseek_v2(const ConfigReader& reader, ModelConfig& c) {
  read_deepseek_common(reader, {.first_dense = 0, .shared_experts = 2}, c);
  reader.only("scoring_func", {"softmax"});
  reader.only("topk_method", {"greedy", "group_limited_greedy"});
  reader.only("rope_interleave", {true});
  reader.only("norm_topk_prob", {false});  // transformers ignores it, DeepSeek's own code does not
  c.mlp_bias = reader.boolean("mlp_bias", false);
  if (c.mlp_bias) reader.fail("mlp_bias", "is not supported with experts");
  c.moe.scoring = moe::Scoring::kSoftmax;
  c.moe.group_score = moe::GroupScore::kMax;
  if (reader.text("topk_method", "greedy") == "group_limited_greedy") {
    c.moe.num_groups = reader.required("n_group");
    c.moe.topk_groups = reader.required("topk_group");
  }
}

}  // namespace tessera::model
