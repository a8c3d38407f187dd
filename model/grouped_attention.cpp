#include <cmath>

#include "core/error.h"
#include "model/attention.h"

namespace tessera::model {

namespace {

class GroupedAttention final : public Attention {
 public:
  explicit GroupedAttention(const ModelConfig& c)
      : shape_{c.num_attention_heads, c.num_key_value_heads, c.head_dim, 1.0f / std::sqrt(static_cast<float>(c.head_dim))},
        normalized_(c.qk_norm) {
    const int64_t queries = c.num_attention_heads * c.head_dim, keys = c.num_key_value_heads * c.head_dim;
    qkv_ = make_linear({{"self_attn.q_proj", queries}, {"self_attn.k_proj", keys}, {"self_attn.v_proj", keys}}, c.hidden_size,
                       c.attention_bias);
    put_norm_in_front(qkv_, "input_layernorm", c.rms_norm_eps);
    out_ = make_linear({{"self_attn.o_proj", c.hidden_size}}, queries, c.attention_output_bias);
    if (normalized_) norms_ = {kernels::make_parameter({c.head_dim}), kernels::make_parameter({c.head_dim}), static_cast<float>(c.rms_norm_eps)};
  }

  at::Tensor forward(const at::Tensor& x_TD, const Pass& pass, int64_t layer) override {
    const at::Tensor qkv = run_linear(pass, x_TD, qkv_);
    at::Tensor mixed;
    if (pass.kind != PassKind::kTraining) {
      if (normalized_) kernels::normalize_heads(qkv, shape_, norms_);
      mixed = kernels::attention(qkv, shape_, pass.segments, pass.positions, *pass.rope);  // rotates qkv in place
      if (pass.cache != nullptr) kernels::store_rows(keys_and_values(qkv), segment_rows(pass, layer));
    } else if (normalized_) {
      mixed = kernels::attention(qkv, shape_, pass.segments, pass.positions, *pass.rope, norms_);
    } else {
      mixed = kernels::attention(qkv, shape_, pass.segments, pass.positions, *pass.rope);
    }
    return run_linear(pass, mixed, out_, x_TD);
  }

  at::Tensor decode(const at::Tensor& x_TD, const Pass& pass, int64_t layer) override {
    const at::Tensor qkv = run_linear(pass, x_TD, qkv_);
    if (normalized_) kernels::normalize_heads(qkv, shape_, norms_);
    kernels::rotate(qkv, shape_, pass.positions, *pass.rope);
    kernels::store_rows(keys_and_values(qkv), newest_rows(pass, layer));
    const at::Tensor q = qkv.narrow(1, 0, shape_.heads * shape_.head_dim).contiguous();
    const at::Tensor mixed = kernels::attention_decode(q, shape_, shape_.head_dim,
                                                       cached_rows(pass, layer, shape_.key_value_heads * shape_.head_dim));
    return run_linear(pass, mixed, out_, x_TD);
  }

  [[nodiscard]] int64_t cache_row() const override { return 2 * shape_.key_value_heads * shape_.head_dim; }
  [[nodiscard]] std::vector<LinearLayer*> linears() override { return {&qkv_, &out_}; }

  void list_weights(const std::string& prefix, std::vector<NamedWeight>& list) const override {
    list_linear(prefix, qkv_, list);
    if (normalized_) {
      list_weight(prefix + "self_attn.q_norm.weight", norms_.query, list);
      list_weight(prefix + "self_attn.k_norm.weight", norms_.key, list);
    }
    list_linear(prefix, out_, list);
  }

 private:
  [[nodiscard]] at::Tensor keys_and_values(const at::Tensor& qkv) const { return qkv.narrow(1, shape_.heads * shape_.head_dim, cache_row()); }

  kernels::AttentionShape shape_;
  bool normalized_;
  kernels::HeadNorms norms_;
  LinearLayer qkv_, out_;
};

}  // namespace

std::unique_ptr<Attention> make_grouped_attention(const ModelConfig& config) { return std::make_unique<GroupedAttention>(config); }

std::unique_ptr<Attention> make_attention(const ModelConfig& config) {
  return config.attention == AttentionKind::kLatent ? make_latent_attention(config) : make_grouped_attention(config);
}

std::vector<void*> newest_rows(const Pass& pass, int64_t layer) {
  std::vector<void*> rows;
  for (size_t i = 0; i < pass.sequences.size(); ++i) rows.push_back(pass.cache->row(layer, pass.sequences[i], pass.keys[i] - 1));
  return rows;
}

std::vector<void*> segment_rows(const Pass& pass, int64_t layer) {
  std::vector<void*> rows;
  for (size_t i = 0; i < pass.segments.size(); ++i) {
    TESSERA_CHECK(pass.segments[i].start == static_cast<int64_t>(rows.size()), "prompts lie end to end");
    for (int64_t t = 0; t < pass.segments[i].length; ++t) rows.push_back(pass.cache->row(layer, pass.sequences[i], t));
  }
  return rows;
}

kernels::CachedRows cached_rows(const Pass& pass, int64_t layer, int64_t values_begin) {
  kernels::CachedRows rows{.runs = {}, .stride = pass.cache->row_size(), .values_begin = values_begin};
  for (size_t i = 0; i < pass.sequences.size(); ++i) {
    pass.cache->list_runs(layer, pass.sequences[i], pass.keys[i], rows.runs);
    rows.first_run.push_back(rows.runs.size());
  }
  return rows;
}

}  // namespace tessera::model
