// The router of a mixture-of-experts layer (DeepSeek-V3, arXiv 2412.19437, section 2.1.2): scores every expert for every
// token in float32, chooses top-k and weighs the choice. It adds its own losses' gradients and counts what it chose.
//
// Legend: T tokens, D model dim, E experts, K choices a token.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <vector>

#include "core/segment.h"
#include "kernels/parameter.h"
#include "moe/config.h"

namespace tessera::moe {

/// What one training step makes of a layer's routing: sums over its micro-batches on this rank, where they were computed. Undefined
/// where nothing was added.
struct RoutingSums {
  at::Tensor counts;                // [E] int64, tokens that chose the expert
  at::Tensor balance_loss, z_loss;  // float64 scalars
};

/// Choices of experts by layer: [T, K] int32, rows of -1 where a token has none.
using LayerChoices = std::map<int64_t, at::Tensor>;

/// Weights of the router's losses in one forward pass, their global denominators included. `statistics` off: nothing is
/// counted or added (evaluation, generation).
struct RoutingTerms {
  bool statistics = false;
  double balance_weight = 0;  // of each segment's sequence-wise balance loss
  double z_weight = 0;        // of each token's squared log-sum-exp
  bool again = false;         // recomputation: the losses have gradients, but nothing is counted
  /// Routing replay (R3, arXiv 2510.11370): experts to take instead of the best, or null. Their weights are of the scores of now, with
  /// gradient. Where blocks are recomputed it must outlive the backward pass.
  const LayerChoices* imposed = nullptr;
  LayerChoices* record = nullptr;  // gets what is chosen; null: nobody asks
};

struct Routing {
  at::Tensor weights;  // [T, K] float32, differentiable
  at::Tensor experts;  // [T, K] int32, best first
};

class Router final {
 public:
  /// `dim` is D, `layer` the number by which choices are imposed and recorded. Allocates weight [E, D] and, with
  /// config.correction_bias, bias [E].
  Router(const MoeConfig& config, int64_t dim, int64_t layer = 0);

  /// x: [T, D]. Scores are sigmoid or softmax of x W^T; the bias and the groups decide who is chosen, the scores alone how
  /// much it weighs. `segments` bound the sequences of the balance loss, eq. 17-20 of the paper. The gradients of the
  /// losses join that of the weights in the backward pass, which expects a loss of gradient 1.
  Routing route(const at::Tensor& x, const std::vector<Segment>& segments, const RoutingTerms& terms);

  [[nodiscard]] const MoeConfig& config() const { return config_; }
  [[nodiscard]] const kernels::ParameterPtr& weight() const { return weight_; }
  [[nodiscard]] const kernels::ParameterPtr& bias() const { return bias_; }
  [[nodiscard]] const RoutingSums& sums() const { return sums_; }
  void reset_sums() { sums_ = {}; }

 private:
  [[nodiscard]] at::Tensor imposed(const RoutingTerms& terms, int64_t tokens) const;

  MoeConfig config_;
  int64_t layer_;
  kernels::ParameterPtr weight_, bias_;
  RoutingSums sums_;
};

/// A layer's router and the layer's number in the model.
struct LayerRouter {
  int64_t layer = 0;
  Router* router = nullptr;
};

}  // namespace tessera::moe
