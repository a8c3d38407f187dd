// DeepSeek-V3 and R1, Moonlight: sigmoid scores with a correction bias, MTP modules behind the layers.
#include "model/families/families.h"

namespace tessera::model {

void read_deepseek_v3(const ConfigReader& reader, ModelConfig& c) {
  read_deepseek_common(reader, {.first_dense = 3, .shared_experts = 1}, c);
  reader.only("scoring_func", {"sigmoid"});
  reader.only("topk_method", {"noaux_tc"});
  c.moe.scoring = moe::Scoring::kSigmoid;
  c.moe.correction_bias = true;
  c.moe.num_groups = reader.integer("n_group", 8);
  c.moe.topk_groups = reader.integer("topk_group", 4);
  c.moe.group_score = moe::GroupScore::kTopTwoSum;
  c.moe.norm_topk_prob = reader.boolean("norm_topk_prob", true);
  c.moe.routed_scaling_factor = reader.number("routed_scaling_factor", 2.5);
  c.num_mtp_modules = reader.has("num_nextn_predict_layers") ? reader.integer("num_nextn_predict_layers", 0) : reader.integer("num_mtp_layers", 0);
}

}  // namespace tessera::model
