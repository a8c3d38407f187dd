#include "model/causal_lm.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>

#include <cstring>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/embedding.h"
#include "kernels/threads.h"

namespace tessera::model {

namespace {

using kernels::ParameterPtr;

ParameterPtr make_parameter(std::vector<int64_t> shape) {
  auto parameter = std::make_shared<kernels::Parameter>();
  parameter->value = at::empty(shape, at::kFloat);
  return parameter;
}

LinearLayer make_linear(std::vector<std::pair<std::string, int64_t>> parts, int64_t in, bool bias) {
  LinearLayer layer;
  int64_t out = 0;
  for (auto& [name, rows] : parts) {
    layer.parts.push_back({name, out, out + rows});
    out += rows;
  }
  layer.spec.weight = make_parameter({out, in});
  if (bias) layer.spec.bias = make_parameter({out});
  return layer;
}

void put_norm_in_front(kernels::LinearSpec& spec, const ModelConfig& config) {
  spec.prologue = kernels::Prologue::kRmsNorm;
  spec.norm = make_parameter({config.hidden_size});
  spec.norm_eps = static_cast<float>(config.rms_norm_eps);
}

Block make_block(const ModelConfig& c) {
  Block block;
  const int64_t queries = c.num_attention_heads * c.head_dim, keys = c.num_key_value_heads * c.head_dim;
  block.qkv = make_linear({{"self_attn.q_proj", queries}, {"self_attn.k_proj", keys}, {"self_attn.v_proj", keys}},
                          c.hidden_size, c.attention_bias);
  put_norm_in_front(block.qkv.spec, c);
  block.attention_out = make_linear({{"self_attn.o_proj", c.hidden_size}}, queries, c.attention_bias);
  block.gate_up = make_linear({{"mlp.gate_proj", c.intermediate_size}, {"mlp.up_proj", c.intermediate_size}},
                              c.hidden_size, c.mlp_bias);
  put_norm_in_front(block.gate_up.spec, c);
  block.down = make_linear({{"mlp.down_proj", c.hidden_size}}, c.intermediate_size, c.mlp_bias);
  block.down.spec.prologue = kernels::Prologue::kSwiglu;
  return block;
}

}  // namespace

int64_t NamedWeight::numel() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

int64_t NamedWeight::offset() const { return row_begin * (numel() / std::max<int64_t>(1, shape[0])); }

CausalLM::CausalLM(ModelConfig config) : config_(std::move(config)) {
  shape_ = {config_.num_attention_heads, config_.num_key_value_heads, config_.head_dim,
            1.0f / std::sqrt(static_cast<float>(config_.head_dim))};
  embedding_ = make_parameter({config_.vocab_size, config_.hidden_size});
  for (int64_t i = 0; i < config_.num_hidden_layers; ++i) blocks_.push_back(make_block(config_));
  put_norm_in_front(head_, config_);
  head_.weight = config_.tie_word_embeddings ? embedding_ : make_parameter({config_.vocab_size, config_.hidden_size});
}

void CausalLM::ensure_positions(const at::Tensor& positions) {
  int64_t needed = 0;
  const int32_t* p = positions.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < positions.numel(); ++i) needed = std::max<int64_t>(needed, p[i] + 1);
  const int64_t have = rope_.cos.defined() ? rope_.cos.size(0) : 0;
  if (needed > have)
    rope_ = kernels::make_rope_table(config_.inverse_frequencies(), std::max({needed, have * 2, int64_t{512}}));
}

at::Tensor CausalLM::hidden_states(const at::Tensor& tokens, const at::Tensor& positions,
                                   const std::vector<Segment>& segments) {
  ensure_positions(positions);
  at::Tensor x_TD = kernels::embedding(tokens, embedding_);
  for (const Block& block : blocks_) {
    const at::Tensor qkv = kernels::linear(x_TD, block.qkv.spec);
    const at::Tensor mixed = kernels::attention(qkv, shape_, segments, positions, rope_);
    x_TD = kernels::linear(mixed, block.attention_out.spec, x_TD);
    const at::Tensor gate_up_T2F = kernels::linear(x_TD, block.gate_up.spec);
    x_TD = kernels::linear(gate_up_T2F, block.down.spec, x_TD);
  }
  return x_TD;
}

kernels::CrossEntropy CausalLM::loss(const at::Tensor& hidden, const kernels::Targets& targets) const {
  return kernels::linear_cross_entropy(hidden, head_, targets);
}

at::Tensor CausalLM::logits(const at::Tensor& hidden) const { return kernels::linear_inference(hidden, head_); }

at::Tensor CausalLM::prefill(const at::Tensor& tokens, const at::Tensor& positions,
                             const std::vector<Segment>& segments, const std::vector<int64_t>& slots, KvCache& cache) {
  at::NoGradGuard no_grad;
  ensure_positions(positions);
  int64_t longest = 0;
  for (const auto& segment : segments) longest = std::max(longest, segment.length);
  cache.reserve(longest);
  at::Tensor x_TD = kernels::embedding(tokens, embedding_);
  const int64_t keys_offset = shape_.heads * shape_.head_dim, row = cache.row_floats();
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    const Block& block = blocks_[layer];
    const at::Tensor qkv = kernels::linear_inference(x_TD, block.qkv.spec);
    const at::Tensor mixed = kernels::attention(qkv, shape_, segments, positions, rope_);  // rotates qkv in place
    for (size_t i = 0; i < segments.size(); ++i) {
      const float* source = qkv.const_data_ptr<float>() + segments[i].start * shape_.row() + keys_offset;
      for (int64_t t = 0; t < segments[i].length; ++t)
        std::memcpy(cache.row(static_cast<int64_t>(layer), slots[i], t), source + t * shape_.row(),
                    static_cast<size_t>(row) * sizeof(float));
    }
    x_TD = kernels::linear_inference(mixed, block.attention_out.spec, x_TD);
    x_TD = kernels::linear_inference(kernels::linear_inference(x_TD, block.gate_up.spec), block.down.spec, x_TD);
  }
  std::vector<int64_t> last;
  for (size_t i = 0; i < segments.size(); ++i) {
    cache.set_length(slots[i], segments[i].length);
    last.push_back(segments[i].start + segments[i].length - 1);
  }
  return logits(x_TD.index_select(0, at::tensor(last, at::kLong)));
}

at::Tensor CausalLM::decode(const at::Tensor& tokens, const std::vector<int64_t>& slots, KvCache& cache) {
  at::NoGradGuard no_grad;
  const auto count = static_cast<int64_t>(slots.size());
  at::Tensor positions = at::empty({count}, at::kInt);
  int64_t longest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t length = cache.length(slots[static_cast<size_t>(i)]);
    positions.data_ptr<int32_t>()[i] = static_cast<int32_t>(length);
    longest = std::max(longest, length + 1);
  }
  ensure_positions(positions);
  cache.reserve(longest);
  at::Tensor x_TD = kernels::embedding(tokens, embedding_);
  const int64_t group = shape_.heads / shape_.key_value_heads, e = shape_.head_dim, row = cache.row_floats();
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    const Block& block = blocks_[layer];
    const at::Tensor qkv = kernels::linear_inference(x_TD, block.qkv.spec);
    kernels::rotate(qkv, shape_, positions, rope_);
    at::Tensor mixed = at::empty({count, shape_.heads * e}, qkv.options());
    const float* q = qkv.const_data_ptr<float>();
    float* out = mixed.data_ptr<float>();
    for (int64_t i = 0; i < count; ++i) {
      const int64_t slot = slots[static_cast<size_t>(i)];
      std::memcpy(cache.row(static_cast<int64_t>(layer), slot, cache.length(slot)), q + i * shape_.row() + shape_.heads * e,
                  static_cast<size_t>(row) * sizeof(float));
    }
    kernels::for_each_task(count * shape_.key_value_heads, [&](int64_t task) {
      static thread_local std::vector<float> scratch;
      const int64_t i = task / shape_.key_value_heads, head = task % shape_.key_value_heads;
      const int64_t slot = slots[static_cast<size_t>(i)], keys = cache.length(slot) + 1;
      const auto floats = static_cast<size_t>(kernels::attention_decode_scratch_floats(group, keys));
      if (scratch.size() < floats) scratch.resize(floats + 4096);
      const float* k = cache.row(static_cast<int64_t>(layer), slot, 0) + head * e;
      kernels::kernel_table().attention_decode(q + i * shape_.row() + head * group * e, group, e, k,
                                               k + shape_.key_value_heads * e, e, row, keys, shape_.scale,
                                               out + i * shape_.heads * e + head * group * e, scratch.data());
    });
    x_TD = kernels::linear_inference(mixed, block.attention_out.spec, x_TD);
    x_TD = kernels::linear_inference(kernels::linear_inference(x_TD, block.gate_up.spec), block.down.spec, x_TD);
  }
  for (int64_t slot : slots) cache.set_length(slot, cache.length(slot) + 1);
  return logits(x_TD);
}

std::vector<NamedWeight> CausalLM::weights() const {
  std::vector<NamedWeight> list;
  const int64_t dim = config_.hidden_size;
  list.push_back({"model.embed_tokens.weight", embedding_, 0, {config_.vocab_size, dim}});
  const auto add_linear = [&](const std::string& prefix, const LinearLayer& layer) {
    const int64_t in = layer.spec.weight->value.size(1);
    for (const auto& part : layer.parts) {
      const int64_t out = part.out_end - part.out_begin;
      list.push_back({prefix + part.name + ".weight", layer.spec.weight, part.out_begin, {out, in}});
      if (layer.spec.bias) list.push_back({prefix + part.name + ".bias", layer.spec.bias, part.out_begin, {out}});
    }
  };
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    list.push_back({prefix + "input_layernorm.weight", blocks_[i].qkv.spec.norm, 0, {dim}});
    add_linear(prefix, blocks_[i].qkv);
    add_linear(prefix, blocks_[i].attention_out);
    list.push_back({prefix + "post_attention_layernorm.weight", blocks_[i].gate_up.spec.norm, 0, {dim}});
    add_linear(prefix, blocks_[i].gate_up);
    add_linear(prefix, blocks_[i].down);
  }
  list.push_back({"model.norm.weight", head_.norm, 0, {dim}});
  if (!config_.tie_word_embeddings) list.push_back({"lm_head.weight", head_.weight, 0, {config_.vocab_size, dim}});
  return list;
}

std::vector<NamedWeight> CausalLM::adapter_weights() const {
  std::vector<NamedWeight> list;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const std::string prefix = "base_model.model.model.layers." + std::to_string(i) + ".";
    for (const LinearLayer* layer : {&blocks_[i].qkv, &blocks_[i].attention_out, &blocks_[i].gate_up, &blocks_[i].down}) {
      for (const auto& slice : layer->spec.adapters) {
        for (const auto& part : layer->parts) {
          if (part.out_begin != slice.out_begin) continue;
          list.push_back({prefix + part.name + ".lora_A.weight", slice.a, 0, slice.a->value.sizes().vec()});
          list.push_back({prefix + part.name + ".lora_B.weight", slice.b, 0, slice.b->value.sizes().vec()});
        }
      }
    }
  }
  return list;
}

std::vector<CausalLM::UsedParameter> CausalLM::parameters() const {
  std::vector<UsedParameter> list;
  list.push_back({embedding_, config_.tie_word_embeddings ? 2 : 1});
  const auto add = [&](const ParameterPtr& parameter) {
    if (parameter) list.push_back({parameter, 1});
  };
  const auto add_spec = [&](const kernels::LinearSpec& spec) {
    add(spec.norm);
    add(spec.weight);
    add(spec.bias);
    for (const auto& slice : spec.adapters) {
      add(slice.a);
      add(slice.b);
    }
  };
  for (const auto& block : blocks_)
    for (const LinearLayer* layer : {&block.qkv, &block.attention_out, &block.gate_up, &block.down}) add_spec(layer->spec);
  add(head_.norm);
  if (!config_.tie_word_embeddings) add(head_.weight);
  return list;
}

void CausalLM::initialize(uint64_t seed) {
  constexpr uint32_t kSite = 0x494E4954;  // "INIT"
  uint64_t tensor = 0;
  for (const auto& weight : weights()) {
    at::Tensor value = weight.view();
    const bool norm = weight.name.find("norm.weight") != std::string::npos;
    if (weight.shape.size() == 1) {
      value.fill_(norm ? 1.0 : 0.0);
    } else {
      random_normal(seed, kSite + static_cast<uint32_t>(tensor), 0, weight.numel(), value.data_ptr<float>());
      value.mul_(config_.initializer_range);
    }
    ++tensor;
  }
}

}  // namespace tessera::model
