#include "inference/passes.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include "core/error.h"
#include "kernels/accelerator.h"
#include "kernels/threads.h"

namespace tessera::inference {

namespace {

constexpr int kTag = 1;

std::vector<int64_t> layers_here(const ModelLayout& layout, bool drafts) {
  std::vector<int64_t> layers;
  for (const auto& stage : layout.stages)
    if (stage.model != nullptr)
      for (int64_t layer : stage.model->cached_layers(drafts)) layers.push_back(layer);
  return layers;
}

model::CausalLM& any_model(const ModelLayout& layout) {
  for (const auto& stage : layout.stages)
    if (stage.model != nullptr) return *stage.model;
  throw Error("a rank that generates without a part of the model");
}

bool several(const parallel::Communicator* group) { return group != nullptr && group->size() > 1; }

}  // namespace

bool ModelLayout::alone() const { return stages.size() == 1 && !several(experts); }

at::Tensor int_tensor(std::vector<int32_t>& values) {
  return at::from_blob(values.data(), {static_cast<int64_t>(values.size())}, at::kInt);
}

void Flat::add(const std::vector<int32_t>& sequence) {
  segments.push_back({static_cast<int64_t>(tokens.size()), static_cast<int64_t>(sequence.size()), 0, -1});
  tokens.insert(tokens.end(), sequence.begin(), sequence.end());
  for (size_t i = 0; i < sequence.size(); ++i) positions.push_back(static_cast<int32_t>(i));
}

Passes::Passes(ModelLayout layout, bool drafts, bool records)
    : layout_(std::move(layout)), cache_(layers_here(layout_, drafts), any_model(layout_).cache_row(), any_model(layout_).activations()), records_(records) {}

const model::ModelConfig& Passes::config() const { return any_model(layout_).config(); }

bool Passes::in_step() const { return several(layout_.experts); }

std::vector<bool> Passes::any(const std::vector<bool>& here) const {
  if (!several(layout_.experts)) return here;
  at::Tensor flags = at::empty({static_cast<int64_t>(here.size())}, at::kInt);
  for (size_t i = 0; i < here.size(); ++i) flags.data_ptr<int32_t>()[i] = here[i] ? 1 : 0;
  layout_.experts->all_reduce(flags, parallel::ReduceOp::kMax, "whether there is more to generate")->wait();
  std::vector<bool> result;
  for (size_t i = 0; i < here.size(); ++i) result.push_back(flags.const_data_ptr<int32_t>()[i] != 0);
  return result;
}

template <typename Run>
at::Tensor Passes::through_stages(const at::Tensor& tokens, const Run& run) {
  at::NoGradGuard no_grad;
  at::Tensor stream = tokens;
  for (size_t s = 0; s < layout_.stages.size(); ++s) {
    const auto& stage = layout_.stages[s];
    if (stage.model == nullptr) {
      stream = at::Tensor();
      continue;
    }
    if (s > 0 && layout_.stages[s - 1].holder != stage.holder) {
      stream = at::empty({tokens.size(0), config().hidden_size}, stage.model->activations());
      layout_.pipeline->exchange({}, {{stream, layout_.stages[s - 1].holder, kTag}}, "generation")->wait();
    }
    stream = run(*stage.model, stream);
    if (s + 1 < layout_.stages.size() && layout_.stages[s + 1].holder != stage.holder)
      layout_.pipeline->exchange({{stream.contiguous(), layout_.stages[s + 1].holder, kTag}}, {}, "generation")->wait();
  }
  for (auto& [layer, experts] : choices_) experts = experts.cpu();
  return stream;
}

at::Tensor Passes::rows(const at::Tensor& stream, const std::vector<int64_t>& indices) {
  return stream.index_select(0, kernels::beside(stream, at::tensor(indices, at::kLong)));
}

at::Tensor Passes::prefill(Flat& flat, const std::vector<int64_t>& sequences) {
  const at::Tensor positions = int_tensor(flat.positions);
  const at::Tensor stream = through_stages(int_tensor(flat.tokens), [&](model::CausalLM& model, const at::Tensor& input) {
    return model.prefill(input, positions, flat.segments, sequences, cache_, records_ ? &choices_ : nullptr);
  });
  for (size_t i = 0; i < sequences.size(); ++i) cache_.set_length(sequences[i], flat.segments[i].length);
  return stream;
}

at::Tensor Passes::decode(std::vector<int32_t>& tokens, const std::vector<int64_t>& sequences) {
  const at::Tensor stream = through_stages(int_tensor(tokens), [&](model::CausalLM& model, const at::Tensor& input) {
    return model.decode(input, sequences, cache_, records_ ? &choices_ : nullptr);
  });
  for (int64_t sequence : sequences) cache_.set_length(sequence, cache_.length(sequence) + 1);
  return stream;
}

at::Tensor Passes::logits(const at::Tensor& hidden) const {
  if (!has_last()) return {};
  at::NoGradGuard no_grad;
  return layout_.stages.back().model->logits(hidden);
}

void Passes::draw_there(const std::vector<Question>& questions, const SamplingConfig& sampling, std::vector<Draw>& draws) {
  std::vector<at::Tensor> rows;
  for (const Question& q : questions) rows.push_back(q.logits);
  const at::Tensor logits = at::stack(rows);
  const auto count = static_cast<int64_t>(questions.size()), vocabulary = logits.size(1);
  const bool greedy = sampling.temperature == 0, all = sampling.top_p >= 1 && (sampling.top_k == 0 || sampling.top_k >= vocabulary);
  if (!greedy && !all) {  // these sort, which the host does
    const at::Tensor host = logits.cpu().to(at::kFloat);
    kernels::for_each_task(count, [&](int64_t i) {
      const Question& q = questions[static_cast<size_t>(i)];
      draws[static_cast<size_t>(i)] = draw_token(host.const_data_ptr<float>() + i * vocabulary, vocabulary, sampling, q.sample, q.position);
    });
    return;
  }
  at::Tensor uniforms = at::empty({count}, at::kDouble);
  for (int64_t i = 0; i < count; ++i)
    uniforms.data_ptr<double>()[i] = sampling_uniform(sampling, questions[static_cast<size_t>(i)].sample, questions[static_cast<size_t>(i)].position);
  const at::Tensor drawn =
      kernels::accelerator_of(logits)->draw_tokens(logits, kernels::beside(logits, uniforms), greedy ? 1.0 : 1.0 / sampling.temperature, greedy).cpu();
  const double* row = drawn.const_data_ptr<double>();
  for (size_t i = 0; i < draws.size(); ++i) draws[i] = {static_cast<int32_t>(row[2 * i]), static_cast<float>(row[2 * i + 1])};
}

std::vector<Draw> Passes::draw(const std::vector<Question>& questions, const SamplingConfig& sampling) {
  std::vector<Draw> draws(questions.size());
  if (has_last() && !questions.empty() && kernels::accelerator_of(questions[0].logits) != nullptr) {
    draw_there(questions, sampling, draws);
  } else if (has_last()) {
    kernels::for_each_task(static_cast<int64_t>(questions.size()), [&](int64_t i) {
      const Question& q = questions[static_cast<size_t>(i)];
      draws[static_cast<size_t>(i)] = draw_token(q.logits.const_data_ptr<float>(), config().vocab_size, sampling, q.sample, q.position);
    });
  }
  if (several(layout_.pipeline) && !draws.empty()) {
    static_assert(sizeof(Draw) == 8);
    at::Tensor words = at::from_blob(draws.data(), {2 * static_cast<int64_t>(draws.size())}, at::kInt);
    layout_.pipeline->broadcast(words, layout_.stages.back().holder, "sampled tokens")->wait();
  }
  return draws;
}

}  // namespace tessera::inference
