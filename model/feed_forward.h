// The feed-forward half of a block, its norm and residual included: a SwiGLU MLP, or routed experts beside shared ones.
#pragma once

#include <memory>
#include <vector>

#include "kernels/fp8/recipe.h"
#include "model/config.h"
#include "model/layers.h"
#include "moe/dispatcher.h"
#include "moe/router.h"
#include "model/shard.h"

namespace tessera::model {

class FeedForward {
 public:
  virtual ~FeedForward() = default;

  /// x: [T, D]. Returns x plus the layer's output.
  virtual at::Tensor forward(const at::Tensor& x_TD, const Pass& pass) = 0;

  [[nodiscard]] virtual std::vector<LinearLayer*> linears() = 0;
  virtual void list_weights(const std::string& prefix, std::vector<NamedWeight>& list) const = 0;
  /// Whole stacks of experts under the names that some files have instead of one tensor an expert.
  virtual void list_stacks(const std::string& prefix, std::vector<NamedWeight>& list) const = 0;
  /// Null in a dense layer.
  [[nodiscard]] virtual moe::Router* router() { return nullptr; }
  /// The stacks of routed experts, which other ranks may hold other parts of.
  [[nodiscard]] virtual std::vector<kernels::ParameterPtr> experts() const { return {}; }
  /// From now on the routed experts' products in training are in FP8; linears() have theirs set one by one.
  virtual void use_fp8(const kernels::fp8::Recipe& /*recipe*/) {}
  /// From now on tokens travel to experts and back so in training.
  virtual void use_wire(const moe::Wire& /*wire*/) {}
};

[[nodiscard]] std::unique_ptr<FeedForward> make_dense_mlp(const ModelConfig& config);
/// `shard` says which of the experts are here.
[[nodiscard]] std::unique_ptr<FeedForward> make_moe_layer(const ModelConfig& config, int64_t layer, const Shard& shard);

}  // namespace tessera::model
