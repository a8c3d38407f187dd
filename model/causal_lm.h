// The causal language model of the Llama family: embedding, blocks of attention and SwiGLU MLP, final norm, head.
// Weights that share an input are stacked in memory (q, k, v; gate, up); each stack lists the Hugging Face tensors it is
// made of, and reading, writing, adapters and checkpoints all go through that list.
//
// Legend: T tokens, D hidden_size, H/K query and key/value heads, E head_dim, F intermediate_size, V vocabulary.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/segment.h"
#include "kernels/attention.h"
#include "kernels/cross_entropy.h"
#include "kernels/linear.h"
#include "model/config.h"
#include "model/kv_cache.h"

namespace tessera::model {

/// A Hugging Face tensor: rows [row_begin, row_begin + shape[0]) of a parameter.
struct NamedWeight {
  std::string name;
  kernels::ParameterPtr parameter;
  int64_t row_begin = 0;
  std::vector<int64_t> shape;

  [[nodiscard]] at::Tensor view() const { return parameter->value.detach().narrow(0, row_begin, shape[0]); }
  /// Offset of the first element within the parameter.
  [[nodiscard]] int64_t offset() const;
  [[nodiscard]] int64_t numel() const;
};

/// One Hugging Face linear within a stack.
struct StackPart {
  std::string name;  // "self_attn.q_proj"
  int64_t out_begin = 0, out_end = 0;
};

struct LinearLayer {
  kernels::LinearSpec spec;
  std::vector<StackPart> parts;
};

struct Block {
  LinearLayer qkv, attention_out, gate_up, down;
};

class CausalLM final {
 public:
  /// Parameters are allocated but not touched, so that memory is spent only when they are filled.
  explicit CausalLM(ModelConfig config);

  [[nodiscard]] const ModelConfig& config() const { return config_; }

  /// tokens, positions: [T] int32. Returns the residual stream before the final norm [T, D].
  at::Tensor hidden_states(const at::Tensor& tokens, const at::Tensor& positions, const std::vector<Segment>& segments);
  /// Loss and log-probabilities of the targets from hidden_states' result.
  kernels::CrossEntropy loss(const at::Tensor& hidden, const kernels::Targets& targets) const;

  /// Fills `cache` slots with prompts laid end to end, one a segment, and returns the logits [S, V] of each last token.
  at::Tensor prefill(const at::Tensor& tokens, const at::Tensor& positions, const std::vector<Segment>& segments,
                     const std::vector<int64_t>& slots, KvCache& cache);
  /// One token for each slot, appended to the cache. Returns logits [S, V].
  at::Tensor decode(const at::Tensor& tokens, const std::vector<int64_t>& slots, KvCache& cache);

  /// All base weights in file order, then the adapters' (PEFT names).
  [[nodiscard]] std::vector<NamedWeight> weights() const;
  [[nodiscard]] std::vector<NamedWeight> adapter_weights() const;
  /// Distinct parameters in the order of the forward pass, with how often a pass adds to each gradient.
  struct UsedParameter {
    kernels::ParameterPtr parameter;
    int uses = 1;
  };
  [[nodiscard]] std::vector<UsedParameter> parameters() const;

  std::vector<Block>& blocks() { return blocks_; }
  [[nodiscard]] const std::vector<Block>& blocks() const { return blocks_; }
  [[nodiscard]] const kernels::ParameterPtr& embedding() const { return embedding_; }

  /// Normal weights of deviation initializer_range, norms 1, biases 0; the same for every layout.
  void initialize(uint64_t seed);

 private:
  void ensure_positions(const at::Tensor& positions);
  [[nodiscard]] at::Tensor logits(const at::Tensor& hidden) const;
  [[nodiscard]] std::vector<const LinearLayer*> linears() const;

  ModelConfig config_;
  kernels::AttentionShape shape_;
  kernels::RopeTable rope_;
  kernels::ParameterPtr embedding_;
  std::vector<Block> blocks_;
  kernels::LinearSpec head_;  // with the final norm in front
};

}  // namespace tessera::model
