// A transformer block.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/attention.h"
#include "model/feed_forward.h"

namespace tessera::model {

class Block final {
 public:
  /// `layer` numbers the block in file names, in the cache, and says whether it has experts, of which `shard` may hold some.
  Block(const ModelConfig& config, int64_t layer, const Shard& shard = {});

  at::Tensor forward(const at::Tensor& x_TD, const Pass& pass);
  at::Tensor decode(const at::Tensor& x_TD, const Pass& pass) { return mlp_->forward(attention_->decode(x_TD, pass, layer_), pass); }

  [[nodiscard]] std::string prefix() const { return "model.layers." + std::to_string(layer_) + "."; }
  [[nodiscard]] int64_t cache_row() const { return attention_->cache_row(); }
  [[nodiscard]] std::vector<LinearLayer*> linears() const;
  /// From now on products of linears and experts in training are in FP8.
  void use_fp8(const kernels::fp8::Recipe& recipe);
  void use_wire(const moe::Wire& wire) { mlp_->use_wire(wire); }
  [[nodiscard]] int64_t layer() const { return layer_; }
  [[nodiscard]] moe::Router* router() const { return mlp_->router(); }
  [[nodiscard]] std::vector<kernels::ParameterPtr> experts() const { return mlp_->experts(); }
  void list_weights(std::vector<NamedWeight>& list) const;
  void list_stacks(std::vector<NamedWeight>& list) const { mlp_->list_stacks(prefix(), list); }

 private:
  int64_t layer_;
  std::unique_ptr<Attention> attention_;
  std::unique_ptr<FeedForward> mlp_;
};

}  // namespace tessera::model
