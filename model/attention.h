// The attention half of a block: input norm, projections, attention over segments or over cached rows, output projection,
// residual. Two kinds: grouped query heads, and multi-head latent attention (MLA; arXiv 2405.04434, section 2.1).
//
// Legend: T tokens, D hidden_size, H/K query and key/value heads, E head_dim; of MLA C kv_lora_rank, R rotary dim.
#pragma once

#include <memory>
#include <vector>

#include "model/config.h"
#include "model/layers.h"

namespace tessera::model {

class Attention {
 public:
  virtual ~Attention() = default;

  /// x: [T, D]. Returns x plus the attention's output. With a cache, also stores what decoding needs of `layer`.
  virtual at::Tensor forward(const at::Tensor& x_TD, const Pass& pass, int64_t layer) = 0;
  /// One query a row of x over cached rows; stores its own row first. Without autograd.
  virtual at::Tensor decode(const at::Tensor& x_TD, const Pass& pass, int64_t layer) = 0;

  /// Numbers a token and layer in the cache.
  [[nodiscard]] virtual int64_t cache_row() const = 0;
  [[nodiscard]] virtual std::vector<LinearLayer*> linears() = 0;
  virtual void list_weights(const std::string& prefix, std::vector<NamedWeight>& list) const = 0;
};

[[nodiscard]] std::unique_ptr<Attention> make_attention(const ModelConfig& config);
[[nodiscard]] std::unique_ptr<Attention> make_grouped_attention(const ModelConfig& config);
[[nodiscard]] std::unique_ptr<Attention> make_latent_attention(const ModelConfig& config);

/// Addresses in the cache: of each sequence's newest token, and of the tokens of whole segments, which lie end to end.
[[nodiscard]] std::vector<void*> newest_rows(const Pass& pass, int64_t layer);
[[nodiscard]] std::vector<void*> segment_rows(const Pass& pass, int64_t layer);

/// Where decoding reads: the rows that each token sees, `values_begin` numbers into a row the values.
[[nodiscard]] kernels::CachedRows cached_rows(const Pass& pass, int64_t layer, int64_t values_begin);

}  // namespace tessera::model
