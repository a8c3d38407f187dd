#include "model/block.h"

namespace tessera::model {

Block::Block(const ModelConfig& config, int64_t layer)
    : layer_(layer), attention_(make_attention(config)),
      mlp_(config.is_moe_layer(layer) ? make_moe_layer(config) : make_dense_mlp(config)) {}

std::vector<LinearLayer*> Block::linears() const {
  auto all = attention_->linears();
  for (LinearLayer* layer : mlp_->linears()) all.push_back(layer);
  return all;
}

void Block::list_weights(std::vector<NamedWeight>& list) const {
  attention_->list_weights(prefix(), list);
  mlp_->list_weights(prefix(), list);
}

}  // namespace tessera::model
