// Multi-token prediction (DeepSeek-V3, arXiv 2412.19437, section 2.2): module k joins the hidden state of a token with the
// embedding of the k-th token after it and predicts the token behind that one. Embedding and head are the main model's.
//
// Legend: T tokens, D hidden_size.
#pragma once

#include <string>
#include <vector>

#include "kernels/cross_entropy.h"
#include "model/block.h"

namespace tessera::model {

class MtpModule final {
 public:
  /// Lies behind the main model's layers: `layer` is num_hidden_layers + its number. `head` is the main model's.
  MtpModule(const ModelConfig& config, int64_t layer, const kernels::ParameterPtr& head, const Shard& shard = {});

  /// embedded: of the tokens that follow, hidden: normed states of depth k - 1; both [T, D]. Returns the block's output.
  at::Tensor forward(const at::Tensor& embedded_TD, const at::Tensor& hidden_TD, const Pass& pass);
  at::Tensor decode(const at::Tensor& embedded_TD, const at::Tensor& hidden_TD, const Pass& pass);
  /// The output normed, as the next module takes it.
  [[nodiscard]] at::Tensor normed(const at::Tensor& output_TD) const;
  /// The head with the module's own norm in front.
  [[nodiscard]] const kernels::LinearSpec& head() const { return head_; }

  [[nodiscard]] const Block& block() const { return block_; }
  /// The block's products; eh_proj, which FP8 files leave as it is, stays in float32.
  void use_fp8(const kernels::fp8::Recipe& recipe) { block_.use_fp8(recipe); }
  void use_wire(const moe::Wire& wire) { block_.use_wire(wire); }
  void list_weights(std::vector<NamedWeight>& list) const;

 private:
  [[nodiscard]] at::Tensor joined(const at::Tensor& embedded_TD, const at::Tensor& hidden_TD, const Pass& pass) const;

  Block block_;
  kernels::ParameterPtr embedding_norm_, hidden_norm_;
  float eps_;
  LinearLayer join_;
  kernels::LinearSpec head_;
};

/// Single rows for a module in generation: a token, the row of the states before it, its place in the cache.
struct DraftRows {
  std::vector<int32_t> tokens;
  std::vector<int64_t> states, positions, sequences;

  void add(int32_t token, int64_t state, int64_t position, int64_t sequence);
  /// Takes the last `count` rows back.
  void drop(int64_t count);
  [[nodiscard]] int64_t size() const { return static_cast<int64_t>(tokens.size()); }
};

/// Rows of module k: of each segment all tokens but the last k, with segments of their own.
struct MtpRows {
  std::vector<int64_t> sources;  // [T_k] row among the rows of module k - 1
  std::vector<int32_t> tokens;   // [T_k] the k-th token after
  std::vector<int32_t> positions;
  std::vector<Segment> segments;
  std::vector<int64_t> row_starts;  // as given for the tokens
  kernels::Targets targets;
};

/// Rows of modules 1..depth. `targets`: the main model's; a module predicts those that lie far enough in their document, and
/// their weight is weights[k - 1]. Segments must not have parents. `row_starts`: see kernels::linear.
[[nodiscard]] std::vector<MtpRows> mtp_rows(const std::vector<int32_t>& tokens, const std::vector<Segment>& segments,
                                            const kernels::Targets& targets, const std::vector<double>& weights,
                                            const std::vector<int64_t>& row_starts = {});

/// How many of the main model's targets module k = 1..depth predicts.
[[nodiscard]] std::vector<int64_t> count_mtp_targets(const std::vector<int64_t>& sources, const std::vector<Segment>& segments,
                                                     int64_t depth);

}  // namespace tessera::model
