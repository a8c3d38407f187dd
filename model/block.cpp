#include "model/block.h"

#include "kernels/fp8/operands.h"
#include "model/recompute.h"

namespace tessera::model {

Block::Block(const ModelConfig& config, int64_t layer, const Shard& shard)
    : layer_(layer), attention_(make_attention(config)),
      mlp_(config.is_moe_layer(layer) ? make_moe_layer(config, layer, shard) : make_dense_mlp(config)) {}

at::Tensor Block::forward(const at::Tensor& x_TD, const Pass& pass) {
  if (pass.recompute != Recompute::kFull) return mlp_->forward(attention_->forward(x_TD, pass, layer_), pass);
  return recomputed(x_TD, [this, inner = pass](const at::Tensor& x, bool again) mutable {
    inner.recompute = Recompute::kNone;
    inner.routing.again = again;
    return mlp_->forward(attention_->forward(x, inner, layer_), inner);
  });
}

std::vector<LinearLayer*> Block::linears() const {
  auto all = attention_->linears();
  for (LinearLayer* layer : mlp_->linears()) all.push_back(layer);
  return all;
}

void Block::use_fp8(const kernels::fp8::Recipe& recipe) {
  for (LinearLayer* layer : linears()) layer->spec.fp8 = std::make_shared<kernels::fp8::Weight>(recipe);
  mlp_->use_fp8(recipe);
}

void Block::list_weights(std::vector<NamedWeight>& list) const {
  attention_->list_weights(prefix(), list);
  mlp_->list_weights(prefix(), list);
}

}  // namespace tessera::model
