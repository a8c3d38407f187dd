// The causal language model: embedding, blocks of attention and feed-forward, final norm, head; behind them, where the
// model has them, modules that predict further tokens. Weights that share an input are stacked in memory (q, k, v; gate, up;
// all experts); each stack lists the Hugging Face tensors it is made of, and reading, writing, adapters and checkpoints all
// go through that list.
//
// Legend: T tokens, S sequences, D hidden_size, V vocabulary.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/segment.h"
#include "kernels/attention.h"
#include "kernels/cross_entropy.h"
#include "model/block.h"
#include "model/config.h"
#include "model/kv_cache.h"
#include "model/mtp.h"
#include "model/shard.h"

namespace tessera::model {

class CausalLM final {
 public:
  /// The model, or the part of it that `shard` says. Parameters are allocated but not touched, so that memory is spent only
  /// when they are filled.
  explicit CausalLM(ModelConfig config, Shard shard = {});

  [[nodiscard]] const ModelConfig& config() const { return config_; }
  [[nodiscard]] const Shard& shard() const { return shard_; }

  /// What passes with autograd do not keep.
  void set_recompute(Recompute recompute) { recompute_ = recompute; }
  /// From now on the linears and experts of all blocks multiply in FP8, but for generation. Embedding, head, norms, routers and
  /// the attention core never do.
  void use_fp8(const kernels::fp8::Recipe& recipe);
  /// From now on tokens travel to experts and back so, but for generation.
  void use_wire(const moe::Wire& wire);

  /// Before weights are loaded: the frozen weights of linears and routed experts are kept as FP8 codes (see BlockMatrix). Embedding,
  /// head, norms, routers and biases are not.
  void keep_frozen_in_fp8();

  /// input: tokens [T] int32, or in a stage that is not the first what the one before returned [T, D]; positions: [T] int32. Tokens and
  /// positions lie on the host, whatever device the weights are on.
  /// Returns the residual stream behind the shard's layers, before the final norm [T, D]. `row_starts`: see kernels::linear.
  at::Tensor hidden_states(const at::Tensor& input, const at::Tensor& positions, const std::vector<Segment>& segments,
                           const moe::RoutingTerms& routing = {}, const std::vector<int64_t>& row_starts = {});
  /// Loss and log-probabilities of the targets from hidden_states' result.
  [[nodiscard]] kernels::CrossEntropy loss(const at::Tensor& hidden, const kernels::Targets& targets) const;
  /// The same for a loss that is a function of the log-probabilities.
  [[nodiscard]] kernels::CrossEntropy loss(const at::Tensor& hidden, const kernels::Targets& targets, const kernels::LogProbLoss& loss) const;
  /// Losses of the MTP modules, one for each of `modules`, from hidden_states' result.
  std::vector<kernels::CrossEntropy> mtp_losses(const at::Tensor& hidden, std::vector<MtpRows>& modules, const moe::RoutingTerms& routing);

  /// For inference: weights to a device and the type that activations have there. Buffers stay float32.
  void move_to(c10::Device device, at::ScalarType type);

  /// A cache for the layers here, and for the first MTP module if it drafts.
  [[nodiscard]] std::vector<int64_t> cached_layers(bool drafts = false) const;
  [[nodiscard]] int64_t cache_row() const { return blocks_.front()->cache_row(); }
  /// Where activations lie, and of what type they are.
  [[nodiscard]] at::TensorOptions activations() const { return somewhere().options(); }

  /// Prompts laid end to end, one a segment, each into a sequence of `cache`. `input` as for hidden_states; returns the
  /// residual stream [T, D]. `record`, here and in decode(), gets the experts that were chosen.
  at::Tensor prefill(const at::Tensor& input, const at::Tensor& positions, const std::vector<Segment>& segments,
                     const std::vector<int64_t>& sequences, KvCache& cache, moe::LayerChoices* record = nullptr);
  /// One token for each sequence, appended to it. A sequence that is named several times gets several tokens, in order. The lengths
  /// in the cache are left for the caller to set, behind the last stage. Returns the residual stream.
  at::Tensor decode(const at::Tensor& input, const std::vector<int64_t>& sequences, KvCache& cache, moe::LayerChoices* record = nullptr);
  /// Of the last stage: logits [N, V] of rows of the residual stream [N, D].
  [[nodiscard]] at::Tensor logits(const at::Tensor& hidden) const;
  /// Behind the final norm, differentiable.
  [[nodiscard]] at::Tensor normed(const at::Tensor& hidden) const;
  /// The first MTP module over prompts: `next` [T] are the tokens behind those of prefill, `states` the normed stream. Returns
  /// logits [S, V] of what comes after each last one.
  at::Tensor draft_prefill(const at::Tensor& next, const at::Tensor& states, const at::Tensor& positions,
                           const std::vector<Segment>& segments, const std::vector<int64_t>& sequences, KvCache& cache);
  /// The same over single rows behind decode; returns the logits of the rows `last`.
  at::Tensor draft_decode(DraftRows& rows, const at::Tensor& states, const std::vector<int64_t>& last, KvCache& cache);

  /// All base weights, then nothing else; see stacks() for the other names of experts.
  [[nodiscard]] std::vector<NamedWeight> weights() const;
  [[nodiscard]] std::vector<NamedWeight> stacks() const;
  /// The adapters' weights (PEFT names).
  [[nodiscard]] std::vector<NamedWeight> adapter_weights() const;
  /// Who holds a parameter besides this rank: those that hold the stage, those that hold the same experts, those that hold
  /// either end of the pipeline.
  enum class Replicas { kStage, kExperts, kEnds };
  /// Distinct parameters in the order of the forward pass, with how often a pass adds to each gradient at most. Those of
  /// MTP modules only with `mtp`; buffers never.
  struct UsedParameter {
    kernels::ParameterPtr parameter;
    int uses = 1;
    Replicas replicas = Replicas::kStage;
  };
  [[nodiscard]] std::vector<UsedParameter> parameters(bool mtp = false) const;
  /// Of the layers with experts, those of MTP modules only with `mtp`.
  [[nodiscard]] std::vector<moe::LayerRouter> routers(bool mtp = false) const;

  [[nodiscard]] const std::vector<std::unique_ptr<Block>>& blocks() const { return blocks_; }
  [[nodiscard]] const kernels::ParameterPtr& embedding() const { return embedding_; }
  [[nodiscard]] const kernels::ParameterPtr& head() const { return head_.weight; }

  /// Normal weights of deviation initializer_range, norms 1, biases 0. A tensor's values depend on its name and the seed only.
  void initialize(uint64_t seed);

 private:
  [[nodiscard]] Recompute recomputation() const;
  /// One of the weights here.
  [[nodiscard]] const at::Tensor& somewhere() const;
  [[nodiscard]] at::Tensor beside_weights(const at::Tensor& x) const;
  void ensure_positions(const at::Tensor& positions);
  [[nodiscard]] int uses(const kernels::ParameterPtr& parameter, int modules) const;
  [[nodiscard]] Replicas replicas(const kernels::ParameterPtr& parameter, const std::set<kernels::ParameterPtr>& experts) const;
  [[nodiscard]] std::vector<NamedWeight> main_weights() const;
  [[nodiscard]] std::vector<NamedWeight> mtp_weights() const;

  ModelConfig config_;
  Shard shard_;
  Recompute recompute_ = Recompute::kNone;
  kernels::RopeTable rope_;
  kernels::ParameterPtr embedding_;
  std::vector<std::unique_ptr<Block>> blocks_;
  kernels::LinearSpec head_;  // with the final norm in front
  std::vector<std::unique_ptr<MtpModule>> mtp_;
};

}  // namespace tessera::model
