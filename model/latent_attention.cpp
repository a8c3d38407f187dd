#include "kernels/latent_attention.h"

#include <ATen/ops/split_with_sizes.h>

#include <cmath>

#include "kernels/gemm.h"
#include "kernels/rms_norm.h"
#include "model/attention.h"
#include "model/recompute.h"

namespace tessera::model {

namespace {

// The norms of the latents have this eps in every file, whatever rms_norm_eps says.
constexpr double kLatentNormEps = 1e-6;

/// The weight with its adapters added, for the absorbed form, which does not multiply by it as a whole.
at::Tensor whole_weight(const kernels::LinearSpec& spec) {
  if (spec.adapters.empty()) return spec.weight->values().detach();
  at::Tensor weight = spec.weight->codes ? spec.weight->values() : spec.weight->value.detach().clone();
  for (const auto& slice : spec.adapters)
    kernels::gemm(slice.b->value.detach(), kernels::Transpose::kNo, slice.a->value.detach(), kernels::Transpose::kNo,
                  weight.slice(0, slice.out_begin, slice.out_end), slice.scale, 1.0);
  return weight;
}

class LatentAttention final : public Attention {
 public:
  explicit LatentAttention(const ModelConfig& c) : latent_(c.latent) {
    const LatentConfig& l = c.latent;
    const double scale = c.rope.latent_scale() / std::sqrt(static_cast<double>(l.qk_head_dim()));
    shape_ = {c.num_attention_heads, l.qk_nope_head_dim, l.qk_rope_head_dim, l.v_head_dim, static_cast<float>(scale),
              c.rope.neighbours ? kernels::RopePairs::kNeighbours : kernels::RopePairs::kHalves};
    const int64_t queries = shape_.heads * l.qk_head_dim();
    query_width_ = compressed() ? l.q_lora_rank : queries;
    down_ = make_linear({{compressed() ? "self_attn.q_a_proj" : "self_attn.q_proj", query_width_},
                         {"self_attn.kv_a_proj_with_mqa", l.kv_lora_rank + l.qk_rope_head_dim}},
                        c.hidden_size, c.attention_bias);
    put_norm_in_front(down_, "input_layernorm", c.rms_norm_eps);
    if (compressed()) {
      query_up_ = make_linear({{"self_attn.q_b_proj", queries}}, l.q_lora_rank, false);
      put_norm_in_front(query_up_, "self_attn.q_a_layernorm", kLatentNormEps);
    }
    up_ = make_linear({{"self_attn.kv_b_proj", shape_.heads * (l.qk_nope_head_dim + l.v_head_dim)}}, l.kv_lora_rank, false);
    put_norm_in_front(up_, "self_attn.kv_a_layernorm", kLatentNormEps);
    out_ = make_linear({{"self_attn.o_proj", c.hidden_size}}, shape_.heads * l.v_head_dim, c.attention_output_bias);
  }

  at::Tensor forward(const at::Tensor& x_TD, const Pass& pass, int64_t layer) override {
    const at::Tensor stacked = run_linear(pass, x_TD, down_);
    if (pass.recompute == Recompute::kSelective)
      return run_linear(pass, recomputed(stacked, [this, pass](const at::Tensor& x, bool again) {
                          return mix(split(again ? x : x.clone(), pass), pass);  // what is kept must not be rotated in place
                        }), out_, x_TD);
    const Projected p = split(stacked, pass);
    const at::Tensor mixed = mix(p, pass);
    if (pass.cache != nullptr) store(normed_latent(p), p.k_rope_TR, segment_rows(pass, layer));
    return run_linear(pass, mixed, out_, x_TD);
  }

  at::Tensor decode(const at::Tensor& x_TD, const Pass& pass, int64_t layer) override {
    const Projected p = split(run_linear(pass, x_TD, down_), pass);
    kernels::rotate_latent(p.q, p.k_rope_TR, shape_, pass.positions, *pass.rope);
    store(normed_latent(p), p.k_rope_TR, newest_rows(pass, layer));
    const at::Tensor weight = whole_weight(up_.spec);
    const kernels::AttentionShape absorbed{shape_.heads, 1, cache_row(), shape_.scale};
    const at::Tensor mixed = kernels::attention_decode(kernels::absorb_queries(p.q, weight, shape_), absorbed, latent_.kv_lora_rank,
                                                       cached_rows(pass, layer, 0));
    return run_linear(pass, kernels::expand_values(mixed, weight, shape_), out_, x_TD);
  }

  [[nodiscard]] int64_t cache_row() const override { return latent_.kv_lora_rank + latent_.qk_rope_head_dim; }

  [[nodiscard]] std::vector<LinearLayer*> linears() override {
    if (compressed()) return {&down_, &query_up_, &up_, &out_};
    return {&down_, &up_, &out_};
  }

  void list_weights(const std::string& prefix, std::vector<NamedWeight>& list) const override {
    list_linear(prefix, down_, list);
    if (compressed()) list_linear(prefix, query_up_, list);
    list_linear(prefix, up_, list);
    list_linear(prefix, out_, list);
  }

 private:
  struct Projected {
    at::Tensor q;          // [T, H (N + R)], rows perhaps further apart
    at::Tensor latent_TC;  // before its norm
    at::Tensor k_rope_TR;  // rows further apart
  };

  [[nodiscard]] bool compressed() const { return latent_.q_lora_rank > 0; }

  /// What the down-projections made, with the queries at full width.
  Projected split(const at::Tensor& stacked, const Pass& pass) const {
    const auto parts = at::split_with_sizes(stacked, {query_width_, latent_.kv_lora_rank, latent_.qk_rope_head_dim}, 1);
    const at::Tensor q = compressed() ? run_linear(pass, parts[0].contiguous(), query_up_) : parts[0];
    return {q, parts[1].contiguous(), parts[2]};
  }

  [[nodiscard]] at::Tensor mix(const Projected& p, const Pass& pass) const {
    const at::Tensor kv = run_linear(pass, p.latent_TC, up_);
    return kernels::latent_attention(p.q, kv, p.k_rope_TR, shape_, pass.segments, pass.positions, *pass.rope);
  }

  [[nodiscard]] at::Tensor normed_latent(const Projected& p) const {
    return kernels::rms_norm(p.latent_TC, up_.spec.norm->value, up_.spec.norm_eps);
  }

  /// Normed latents and rotated keys to their rows of the cache.
  void store(const at::Tensor& normed, const at::Tensor& k_rope, const std::vector<void*>& rows) const {
    kernels::store_rows(normed, rows);
    kernels::store_rows(k_rope, rows, latent_.kv_lora_rank);
  }

  LatentConfig latent_;
  kernels::LatentShape shape_;
  int64_t query_width_ = 0;
  LinearLayer down_, query_up_, up_, out_;
};

}  // namespace

std::unique_ptr<Attention> make_latent_attention(const ModelConfig& config) { return std::make_unique<LatentAttention>(config); }

}  // namespace tessera::model
