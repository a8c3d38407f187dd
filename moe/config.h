// What a mixture-of-experts layer is told.
#pragma once

#include <cstdint>

namespace tessera::moe {

enum class Scoring { kSigmoid, kSoftmax };
/// How good a group of experts is: the sum of its two best scores (DeepSeek-V3), or its best (DeepSeek-V2).
enum class GroupScore { kTopTwoSum, kMax };

struct MoeConfig {
  int64_t num_experts = 0;  // 0: a dense model
  int64_t experts_per_token = 1;
  int64_t intermediate_size = 0;         // of one routed expert
  int64_t shared_intermediate_size = 0;  // of the shared experts together; 0: none
  Scoring scoring = Scoring::kSoftmax;
  bool correction_bias = false;          // a bias that moves the choice of experts, not their weights
  int64_t num_groups = 1, topk_groups = 1;
  GroupScore group_score = GroupScore::kTopTwoSum;
  bool norm_topk_prob = false;           // the chosen weights sum to 1 before scaling
  double routed_scaling_factor = 1.0;
};

}  // namespace tessera::moe
