// What a router makes of scores once experts are chosen, in tensor operations: for devices, where router.cpp's loops cannot run. The
// formulas are those of router.cpp. Nothing here waits for the device.
//
// Legend: T tokens, E experts, K choices a token, S segments.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "core/segment.h"
#include "moe/config.h"

namespace tessera::moe {

/// As transformers has it: a token whose chosen scores are all 0 gets weights 0, not NaN.
constexpr float kNormEpsilon = 1e-20f;

/// weights [T, K] of the chosen scores. scores: [T, E] float32; experts: [T, K] int32.
[[nodiscard]] at::Tensor chosen_weights(const at::Tensor& scores, const at::Tensor& experts, const MoeConfig& config);
/// Gradient of the scores [T, E] from that of the weights.
[[nodiscard]] at::Tensor chosen_weights_backward(const at::Tensor& d_weights, const at::Tensor& scores, const at::Tensor& experts, const MoeConfig& config);
/// [E] int64.
[[nodiscard]] at::Tensor count_choices(const at::Tensor& experts, int64_t num_experts);

/// The sequence-wise balance loss (DeepSeek-V3, eq. 17-20) times `weight`, and its gradient.
class SequenceBalance final {
 public:
  SequenceBalance(const std::vector<Segment>& segments, const at::Tensor& experts, const MoeConfig& config, double weight);

  /// A float32 scalar.
  [[nodiscard]] at::Tensor loss(const at::Tensor& scores) const;
  [[nodiscard]] at::Tensor backward(const at::Tensor& scores) const;

 private:
  at::Tensor f_TE_;       // each token's segment's f
  at::Tensor factor_T1_;  // weight / length of its segment; 0 for a token of none
};

}  // namespace tessera::moe
