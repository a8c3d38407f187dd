#include "model/causal_lm.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/index_select.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"
#include "core/hash.h"
#include "core/random.h"
#include "kernels/accelerator.h"
#include "kernels/embedding.h"
#include "kernels/rms_norm.h"

namespace tessera::model {

namespace {

/// Row of each segment's last token.
at::Tensor last_rows(const std::vector<Segment>& segments) {
  at::Tensor rows = at::empty({static_cast<int64_t>(segments.size())}, at::kLong);
  for (size_t i = 0; i < segments.size(); ++i) rows.data_ptr<int64_t>()[i] = segments[i].start + segments[i].length - 1;
  return rows;
}

}  // namespace

CausalLM::CausalLM(ModelConfig config, Shard shard) : config_(std::move(config)), shard_(std::move(shard)) {
  if (shard_.end_layer < 0) shard_.end_layer = config_.num_hidden_layers;
  if (shard_.has_embedding())
    embedding_ = shard_.embedding ? shard_.embedding : kernels::make_parameter({config_.vocab_size, config_.hidden_size});
  for (int64_t i = shard_.begin_layer; i < shard_.end_layer; ++i) blocks_.push_back(std::make_unique<Block>(config_, i, shard_));
  if (!shard_.last) return;
  head_.weight = config_.tie_word_embeddings ? embedding_ : kernels::make_parameter({config_.vocab_size, config_.hidden_size});
  head_.prologue = kernels::Prologue::kRmsNorm;
  head_.norm = kernels::make_parameter({config_.hidden_size});
  head_.norm_eps = static_cast<float>(config_.rms_norm_eps);
  for (int64_t i = 0; i < config_.num_mtp_modules; ++i)
    mtp_.push_back(std::make_unique<MtpModule>(config_, config_.num_hidden_layers + i, head_.weight, shard_));
}

void CausalLM::ensure_positions(const at::Tensor& positions) {
  int64_t needed = 0;
  const int32_t* p = positions.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < positions.numel(); ++i) needed = std::max<int64_t>(needed, p[i] + 1);
  const int64_t have = rope_.cos.defined() ? rope_.cos.size(0) : 0;
  if (needed <= have && have > 0) return;
  rope_ = kernels::make_rope_table(config_.inverse_frequencies(), std::max({needed, have * 2, int64_t{512}}), config_.rope.attention_factor());
  rope_ = {beside_weights(rope_.cos), beside_weights(rope_.sin)};
}

void CausalLM::move_to(c10::Device device, at::ScalarType type) {
  const at::NoGradGuard no_grad;
  std::set<const kernels::Parameter*> seen;
  for (const auto& list : {weights(), adapter_weights()})
    for (const auto& weight : list)
      if (seen.insert(weight.parameter.get()).second) kernels::move_to(*weight.parameter, device, weight.buffer ? at::kFloat : type);
  rope_ = {};
}

const at::Tensor& CausalLM::somewhere() const {
  return shard_.has_embedding() ? embedding_->value : blocks_.front()->linears().front()->spec.norm->value;
}

at::Tensor CausalLM::beside_weights(const at::Tensor& x) const { return kernels::beside(somewhere(), x); }

void CausalLM::use_fp8(const kernels::fp8::Recipe& recipe) {
  for (const auto& block : blocks_) block->use_fp8(recipe);
  for (const auto& module : mtp_) module->use_fp8(recipe);
}

void CausalLM::use_wire(const moe::Wire& wire) {
  for (const auto& block : blocks_) block->use_wire(wire);
  for (const auto& module : mtp_) module->use_wire(wire);
}

void CausalLM::keep_frozen_in_fp8() {
  for (const auto& weight : weights())
    if (weight.projection && !weight.parameter->codes) kernels::keep_codes(*weight.parameter);
}

Recompute CausalLM::recomputation() const { return at::GradMode::is_enabled() ? recompute_ : Recompute::kNone; }

at::Tensor CausalLM::hidden_states(const at::Tensor& input, const at::Tensor& positions, const std::vector<Segment>& segments,
                                   const moe::RoutingTerms& routing, const std::vector<int64_t>& row_starts) {
  ensure_positions(positions);
  const at::Tensor there = beside_weights(positions);
  const Pass pass{.positions = there, .segments = segments, .row_starts = row_starts, .rope = &rope_, .routing = routing, .recompute = recomputation()};
  at::Tensor x_TD = shard_.first ? kernels::embedding(beside_weights(input), embedding_) : input;
  for (const auto& block : blocks_) x_TD = block->forward(x_TD, pass);
  return x_TD;
}

kernels::CrossEntropy CausalLM::loss(const at::Tensor& hidden, const kernels::Targets& targets) const {
  return kernels::linear_cross_entropy(hidden, head_, targets);
}

kernels::CrossEntropy CausalLM::loss(const at::Tensor& hidden, const kernels::Targets& targets, const kernels::LogProbLoss& loss) const {
  return kernels::linear_log_prob_loss(hidden, head_, targets, loss);
}

std::vector<kernels::CrossEntropy> CausalLM::mtp_losses(const at::Tensor& hidden, std::vector<MtpRows>& modules,
                                                        const moe::RoutingTerms& routing) {
  std::vector<kernels::CrossEntropy> losses;
  at::Tensor state_TD = normed(hidden);
  for (size_t m = 0; m < modules.size(); ++m) {
    MtpRows& rows = modules[m];
    const auto count = static_cast<int64_t>(rows.sources.size());
    if (count == 0 && !shard_.shares_experts()) break;  // else peers wait for this rank
    const auto ints = [&](std::vector<int32_t>& values) { return beside_weights(at::from_blob(values.data(), {count}, at::kInt)); };
    const at::Tensor positions = ints(rows.positions);
    const Pass pass{.positions = positions, .segments = rows.segments, .row_starts = rows.row_starts, .rope = &rope_, .routing = routing, .recompute = recomputation()};
    const at::Tensor gathered_TD = state_TD.index_select(0, beside_weights(at::from_blob(rows.sources.data(), {count}, at::kLong)));
    const at::Tensor output_TD = mtp_[m]->forward(kernels::embedding(ints(rows.tokens), embedding_), gathered_TD, pass);
    losses.push_back(kernels::linear_cross_entropy(output_TD, mtp_[m]->head(), rows.targets));
    if (m + 1 < modules.size()) state_TD = mtp_[m]->normed(output_TD);
  }
  return losses;
}

at::Tensor CausalLM::logits(const at::Tensor& hidden) const { return kernels::linear_decode(hidden, head_); }

at::Tensor CausalLM::normed(const at::Tensor& hidden) const { return kernels::rms_norm_layer(hidden, head_.norm, head_.norm_eps); }

std::vector<int64_t> CausalLM::cached_layers(bool drafts) const {
  std::vector<int64_t> layers;
  for (const auto& block : blocks_) layers.push_back(block->layer());
  if (drafts) layers.push_back(config_.num_hidden_layers);
  return layers;
}

at::Tensor CausalLM::prefill(const at::Tensor& input, const at::Tensor& positions, const std::vector<Segment>& segments,
                             const std::vector<int64_t>& sequences, KvCache& cache, moe::LayerChoices* record) {
  at::NoGradGuard no_grad;
  ensure_positions(positions);
  for (size_t i = 0; i < segments.size(); ++i) cache.reserve(sequences[i], segments[i].length);
  const Pass pass{.kind = PassKind::kPrefill, .positions = beside_weights(positions), .segments = segments, .rope = &rope_,
                  .routing = {.record = record}, .cache = &cache, .sequences = sequences};
  at::Tensor x_TD = shard_.first ? kernels::embedding(beside_weights(input), embedding_) : input;
  for (const auto& block : blocks_) x_TD = block->forward(x_TD, pass);
  return x_TD;
}

at::Tensor CausalLM::decode(const at::Tensor& input, const std::vector<int64_t>& sequences, KvCache& cache, moe::LayerChoices* record) {
  at::NoGradGuard no_grad;
  Pass pass{.kind = PassKind::kDecode, .rope = &rope_, .routing = {.record = record}, .cache = &cache, .sequences = sequences};
  pass.positions = at::empty({static_cast<int64_t>(sequences.size())}, at::kInt);
  std::map<int64_t, int64_t> lengths;  // after this call
  for (size_t i = 0; i < sequences.size(); ++i) {
    int64_t& length = lengths.try_emplace(sequences[i], cache.length(sequences[i])).first->second;
    pass.positions.data_ptr<int32_t>()[i] = static_cast<int32_t>(length);
    pass.keys.push_back(++length);
  }
  for (const auto& [sequence, length] : lengths) cache.reserve(sequence, length);
  ensure_positions(pass.positions);
  pass.positions = beside_weights(pass.positions);
  at::Tensor x_TD = shard_.first ? kernels::embedding(beside_weights(input), embedding_) : input;
  for (const auto& block : blocks_) x_TD = block->decode(x_TD, pass);
  return x_TD;
}

at::Tensor CausalLM::draft_prefill(const at::Tensor& next, const at::Tensor& states, const at::Tensor& positions,
                                   const std::vector<Segment>& segments, const std::vector<int64_t>& sequences, KvCache& cache) {
  at::NoGradGuard no_grad;
  const Pass pass{.kind = PassKind::kPrefill, .positions = beside_weights(positions), .segments = segments, .rope = &rope_, .cache = &cache,
                  .sequences = sequences};
  const at::Tensor output_TD = mtp_.front()->forward(kernels::embedding(beside_weights(next), embedding_), states, pass);
  return kernels::linear_decode(output_TD.index_select(0, beside_weights(last_rows(segments))), mtp_.front()->head());
}

at::Tensor CausalLM::draft_decode(DraftRows& rows, const at::Tensor& states, const std::vector<int64_t>& last, KvCache& cache) {
  at::NoGradGuard no_grad;
  Pass pass{.kind = PassKind::kDecode, .rope = &rope_, .cache = &cache, .sequences = rows.sequences};
  pass.positions = at::empty({rows.size()}, at::kInt);
  for (size_t i = 0; i < rows.tokens.size(); ++i) {
    pass.positions.data_ptr<int32_t>()[i] = static_cast<int32_t>(rows.positions[i]);
    pass.keys.push_back(rows.positions[i] + 1);
  }
  pass.positions = beside_weights(pass.positions);
  const at::Tensor tokens = beside_weights(at::from_blob(rows.tokens.data(), {rows.size()}, at::kInt));
  const at::Tensor state_TD = states.index_select(0, beside_weights(at::tensor(rows.states, at::kLong)));
  const at::Tensor output_TD = mtp_.front()->decode(kernels::embedding(tokens, embedding_), state_TD, pass);
  return kernels::linear_decode(output_TD.index_select(0, beside_weights(at::tensor(last, at::kLong))), mtp_.front()->head());
}

std::vector<NamedWeight> CausalLM::main_weights() const {
  std::vector<NamedWeight> list;
  if (shard_.has_embedding()) list_weight("model.embed_tokens.weight", embedding_, list);
  for (const auto& block : blocks_) block->list_weights(list);
  if (!shard_.last) return list;
  list_weight("model.norm.weight", head_.norm, list);
  if (!config_.tie_word_embeddings) list_weight("lm_head.weight", head_.weight, list);
  return list;
}

std::vector<NamedWeight> CausalLM::mtp_weights() const {
  std::vector<NamedWeight> list;
  for (const auto& module : mtp_) module->list_weights(list);
  return list;
}

std::vector<NamedWeight> CausalLM::weights() const {
  auto list = main_weights();
  for (auto& weight : mtp_weights()) list.push_back(std::move(weight));
  return list;
}

std::vector<NamedWeight> CausalLM::stacks() const {
  std::vector<NamedWeight> list;
  for (const auto& block : blocks_) block->list_stacks(list);
  for (const auto& module : mtp_) module->block().list_stacks(list);
  return list;
}

std::vector<NamedWeight> CausalLM::adapter_weights() const {
  std::vector<NamedWeight> list;
  for (const auto& block : blocks_) {
    const std::string prefix = "base_model.model." + block->prefix();
    for (const LinearLayer* layer : block->linears()) {
      for (const auto& slice : layer->spec.adapters) {
        for (const auto& part : layer->parts) {
          if (part.out_begin != slice.out_begin) continue;
          list_weight(prefix + part.name + ".lora_A.weight", slice.a, list);
          list_weight(prefix + part.name + ".lora_B.weight", slice.b, list);
        }
      }
    }
  }
  return list;
}

int CausalLM::uses(const kernels::ParameterPtr& parameter, int modules) const {
  int uses = 0;
  if (parameter == embedding_) uses += (shard_.first ? 1 : 0) + (shard_.last ? modules : 0);
  if (parameter == head_.weight) uses += 1 + modules;
  if (parameter == head_.norm) uses += modules > 0 ? 2 : 1;
  for (int m = 0; m + 1 < modules; ++m)  // the norms of all modules but the last also feed the next one
    if (parameter == mtp_[static_cast<size_t>(m)]->head().norm) uses += 2;
  return std::max(uses, 1);
}

CausalLM::Replicas CausalLM::replicas(const kernels::ParameterPtr& parameter, const std::set<kernels::ParameterPtr>& experts) const {
  if (parameter == embedding_ && shard_.embedding_at_both_ends) return Replicas::kEnds;
  return experts.count(parameter) > 0 ? Replicas::kExperts : Replicas::kStage;
}

std::vector<CausalLM::UsedParameter> CausalLM::parameters(bool mtp) const {
  std::set<kernels::ParameterPtr> experts, seen;
  const auto add_experts = [&](const Block& block) {
    for (const auto& parameter : block.experts()) experts.insert(parameter);
  };
  for (const auto& block : blocks_) add_experts(*block);
  for (const auto& module : mtp_) add_experts(module->block());
  std::vector<UsedParameter> list;
  const int modules = mtp ? static_cast<int>(mtp_.size()) : 0;
  for (const auto& weight : mtp ? weights() : main_weights()) {
    if (weight.buffer || !seen.insert(weight.parameter).second) continue;
    list.push_back({weight.parameter, uses(weight.parameter, modules), replicas(weight.parameter, experts)});
  }
  return list;
}

std::vector<moe::LayerRouter> CausalLM::routers(bool mtp) const {
  std::vector<moe::LayerRouter> list;
  const auto add = [&](const Block& block) {
    if (block.router() != nullptr) list.push_back({block.layer(), block.router()});
  };
  for (const auto& block : blocks_) add(*block);
  if (mtp)
    for (const auto& module : mtp_) add(module->block());
  return list;
}

void CausalLM::initialize(uint64_t seed) {
  constexpr uint32_t kSite = 0x494E4954;  // "INIT"
  for (const auto& weight : weights()) {
    at::Tensor value = weight.view();
    const bool norm = weight.name.find("norm.weight") != std::string::npos;
    if (weight.shape.size() == 1) {
      value.fill_(norm ? 1.0 : 0.0);
    } else {
      random_normal(seed ^ hash64(weight.name), kSite, 0, weight.numel(), value.data_ptr<float>());
      value.mul_(config_.initializer_range);
    }
  }
}

}  // namespace tessera::model
