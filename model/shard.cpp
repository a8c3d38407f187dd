#include "model/shard.h"

#include <algorithm>
#include <limits>

#include "core/error.h"

namespace tessera::model {

namespace {

/// Multiply-adds a token in the products of a layer, attention's own apart.
double layer_cost(const ModelConfig& c, int64_t layer) {
  const auto product = [](int64_t a, int64_t b) { return static_cast<double>(a) * static_cast<double>(b); };
  double cost = 0;
  const int64_t hidden = c.hidden_size, heads = c.num_attention_heads;
  if (c.attention == AttentionKind::kLatent) {
    const LatentConfig& l = c.latent;
    const int64_t queries = heads * l.qk_head_dim();
    cost += l.q_lora_rank > 0 ? product(hidden, l.q_lora_rank) + product(l.q_lora_rank, queries) : product(hidden, queries);
    cost += product(hidden, l.kv_lora_rank + l.qk_rope_head_dim) + product(l.kv_lora_rank, heads * (l.qk_nope_head_dim + l.v_head_dim));
    cost += product(heads * l.v_head_dim, hidden);
  } else {
    cost += product(hidden, (2 * heads + 2 * c.num_key_value_heads) * c.head_dim);
  }
  if (!c.is_moe_layer(layer)) return cost + 3 * product(hidden, c.intermediate_size);
  return cost + product(hidden, c.moe.num_experts) +
         3 * product(hidden, c.moe.experts_per_token * c.moe.intermediate_size + c.moe.shared_intermediate_size);
}

}  // namespace

std::vector<Shard> plan_stages(const ModelConfig& config, int64_t stages, bool mtp) {
  const int64_t layers = config.num_hidden_layers;
  if (stages > layers)
    throw ConfigError(detail::concat("the pipeline has ", stages, " stages, the model only ", layers, " layers; lower parallel.pp",
                                     " or parallel.stages_per_rank"));
  std::vector<double> before(static_cast<size_t>(layers) + 1, 0);  // cost of the layers before each
  for (int64_t l = 0; l < layers; ++l) before[static_cast<size_t>(l) + 1] = before[static_cast<size_t>(l)] + layer_cost(config, l);
  const double head = static_cast<double>(config.vocab_size) * static_cast<double>(config.hidden_size);
  const double end = head + (mtp ? static_cast<double>(config.num_mtp_modules) * (head + layer_cost(config, layers)) : 0);

  // worst[s][l]: the least cost of the worst of s stages that hold the first l layers; cut[s][l]: where the last of them begins.
  const auto count = static_cast<size_t>(layers) + 1;
  std::vector<std::vector<double>> worst(static_cast<size_t>(stages) + 1, std::vector<double>(count, std::numeric_limits<double>::infinity()));
  std::vector<std::vector<int64_t>> cut(static_cast<size_t>(stages) + 1, std::vector<int64_t>(count, 0));
  worst[0][0] = 0;
  for (size_t s = 1; s < worst.size(); ++s)
    for (size_t l = s; l < count; ++l)
      for (size_t from = s - 1; from < l; ++from) {
        const double here = before[l] - before[from] + (l + 1 == count ? end : 0);
        const double cost = std::max(worst[s - 1][from], here);
        if (cost < worst[s][l]) {
          worst[s][l] = cost;
          cut[s][l] = static_cast<int64_t>(from);
        }
      }

  std::vector<Shard> shards(static_cast<size_t>(stages));
  int64_t end_layer = layers;
  for (size_t s = shards.size(); s-- > 0;) {
    Shard& shard = shards[s];
    shard.begin_layer = cut[s + 1][static_cast<size_t>(end_layer)];
    shard.end_layer = end_layer;
    shard.first = s == 0;
    shard.last = s + 1 == shards.size();
    shard.embedding_at_both_ends = config.tie_word_embeddings || (mtp && config.num_mtp_modules > 0);
    end_layer = shard.begin_layer;
  }
  return shards;
}

}  // namespace tessera::model
