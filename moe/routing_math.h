// The steps of a router's passes: loops on the host (host_routing.cpp), tensor operations on devices (tensor_routing.cpp), where nothing
// waits. router.cpp puts them together.
//
// Legend: T tokens, D model dim, E experts, K choices a token.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "core/segment.h"
#include "moe/config.h"

namespace tessera::moe {

/// As transformers has it: a token whose chosen scores are all 0 gets weights 0, not NaN.
constexpr float kNormEpsilon = 1e-20f;

/// The balance loss of one forward pass (DeepSeek-V3, arXiv 2412.19437, eq. 17-20): over segments the sum of weight * sum_i f_i P_i, f_i
/// expert i's share of the segment's choices times E, P_i the mean of its normalised scores.
class SequenceBalance {
 public:
  virtual ~SequenceBalance() = default;
  /// A float64 scalar. scores: [T, E] float32.
  [[nodiscard]] virtual at::Tensor loss(const at::Tensor& scores) const = 0;
  /// Adds to d_scores [T, E].
  virtual void add_gradient(const at::Tensor& scores, const at::Tensor& d_scores) const = 0;
};

class RoutingMath {
 public:
  virtual ~RoutingMath() = default;

  /// x w^T, [T, E] float32. x: [T, D], w: [E, D].
  [[nodiscard]] virtual at::Tensor logits(const at::Tensor& x, const at::Tensor& w) const = 0;
  [[nodiscard]] virtual at::Tensor sigmoid(const at::Tensor& x) const = 0;
  /// [T, K] int32, best first. bias: [E] or undefined. `imposed`: [T, K] int32 on the host, -1 in the rows that are free; or undefined.
  [[nodiscard]] virtual at::Tensor choose(const at::Tensor& scores, const at::Tensor& bias, const at::Tensor& imposed, const MoeConfig& config) const = 0;
  /// [T, K] of the chosen scores.
  [[nodiscard]] virtual at::Tensor weights(const at::Tensor& scores, const at::Tensor& experts, const MoeConfig& config) const = 0;
  /// Gradient of the scores [T, E] from that of the weights.
  [[nodiscard]] virtual at::Tensor weights_backward(const at::Tensor& d_weights, const at::Tensor& scores, const at::Tensor& experts,
                                                    const MoeConfig& config) const = 0;
  [[nodiscard]] virtual std::unique_ptr<SequenceBalance> balance(const std::vector<Segment>& segments, const at::Tensor& experts, const MoeConfig& config,
                                                                 double weight) const = 0;
};

[[nodiscard]] const RoutingMath& host_routing();
[[nodiscard]] const RoutingMath& tensor_routing();
/// That of the device on which x lies.
[[nodiscard]] const RoutingMath& routing_math(const at::Tensor& x);

}  // namespace tessera::moe
