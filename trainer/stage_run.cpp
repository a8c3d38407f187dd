#include "trainer/stage_run.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <torch/csrc/autograd/autograd.h>

#include "trainer/model_batch.h"

namespace tessera::trainer {

using parallel::ActionKind;

namespace {

/// In double, in order; waits for the device once.
double sum_of(const std::vector<at::Tensor>& losses) {
  if (losses.empty()) return 0;
  const at::Tensor all = at::stack(losses).to(at::kDouble).cpu();
  double sum = 0;
  for (int64_t i = 0; i < all.numel(); ++i) sum += all.const_data_ptr<double>()[i];
  return sum;
}

}  // namespace

StepLoss StageRun::loss() const { return {sum_of(losses_), sum_of(mtp_losses_)}; }

StepRun::StepRun(const std::vector<std::unique_ptr<Stage>>& stages, const std::vector<data::MicroBatch>& micro_batches, const LossTerms& terms,
                 bool training, const Boundary& boundary)
    : micro_batches_(micro_batches), terms_(terms), training_(training), boundary_(boundary) {
  for (const auto& stage : stages) stages_[stage->number].stage = stage.get();
}

void StepRun::expect(const std::vector<parallel::Step>& steps) {
  for (const auto& step : steps)
    for (const parallel::Action* action : {&step.first, step.second ? &*step.second : nullptr})
      if (action != nullptr && (action->kind == ActionKind::kBackward || action->kind == ActionKind::kBackwardWeight))
        ++stages_.at(action->stage).left;
}

std::vector<int64_t> StepRun::boundary_shape(int32_t microbatch) const {
  return {passed_over(microbatch) ? 0 : static_cast<int64_t>(at(microbatch).tokens.size()), boundary_.dim};
}

at::Tensor StepRun::forward(int32_t number, int32_t microbatch, at::Tensor input) {
  if (passed_over(microbatch)) return {};
  Stage& stage = *stages_.at(number).stage;
  // Without a pipeline all other micro-batches are done by now, and what the last one completes can be reduced.
  if (training_ && stage.model->shard().first && stage.model->shard().last)
    for (auto* buckets : stage.buckets)
      if (buckets->reduces_each_microbatch() || microbatch + 1 == static_cast<int32_t>(micro_batches_.size())) buckets->start_overlap();
  return run_forward(stage, microbatch, std::move(input));
}

at::Tensor StepRun::backward(int32_t number, int32_t microbatch, at::Tensor gradient, bool weights_later) {
  at::Tensor d_input;
  if (!passed_over(microbatch)) d_input = run_backward(*stages_.at(number).stage, microbatch, gradient, weights_later);
  if (!weights_later) backward_weights(number, microbatch);
  return d_input;
}

void StepRun::backward_weights(int32_t number, int32_t microbatch) {
  State& state = stages_.at(number);
  if (!passed_over(microbatch)) run_weights(*state.stage, microbatch);
  --state.left;
  for (auto* buckets : state.stage->buckets)
    if (buckets->reduces_each_microbatch()) buckets->start_reduction();
  start_reductions();
}

/// The last stages first, as they are done; in this order on every rank, also on those that hold copies of the same stages
/// and come to them in another.
void StepRun::start_reductions() {
  for (auto entry = stages_.rbegin(); entry != stages_.rend() && entry->second.left == 0; ++entry) {
    if (std::exchange(entry->second.reducing, true)) continue;
    for (auto* buckets : entry->second.stage->buckets)
      if (!buckets->reduces_each_microbatch()) buckets->start_reduction();
  }
}

/// Without targets nothing is learnt, but routers are still balanced; where experts lie on other ranks these wait for us.
bool StepRun::passed_over(int32_t microbatch) const {
  if (stages_.begin()->second.stage->model->shard().shares_experts()) return false;
  return at(microbatch).tokens.empty() || (at(microbatch).targets.empty() && !terms_.routing.statistics);
}

at::Tensor StageRun::run_forward(Stage& stage, int32_t microbatch, at::Tensor input) {
  model::CausalLM& model = *stage.model;
  const data::MicroBatch& micro = at(microbatch);
  ModelBatch tensors = to_model_batch(micro, terms().target_weight);
  Kept kept;
  kept.experts = std::move(tensors.experts);
  moe::RoutingTerms routing = terms().routing;
  routing.imposed = kept.experts.get();
  if (!model.shard().first) kept.input = input.detach().requires_grad_(training());
  kept.output = model.hidden_states(model.shard().first ? tensors.tokens : kept.input, tensors.positions, micro.segments, routing,
                                     micro.row_starts);
  at::Tensor handed_on;
  if (model.shard().last) {
    add_loss(model, microbatch, tensors.targets, kept);
  } else {
    handed_on = kept.output.detach();
  }
  if (training()) kept_[{stage.number, microbatch}] = std::move(kept);
  peak_kept_ = std::max(peak_kept_, kept_.size());
  return handed_on;
}

at::Tensor StageRun::run_backward(Stage& stage, int32_t microbatch, const at::Tensor& gradient, bool weights_later) {
  Kept& kept = kept_.at({stage.number, microbatch});
  // What the schedule does not want later is put off until the pass would wait for peers, or ends.
  stage.queue.filling = !weights_later && stage.model->shard().shares_experts();
  stage.queue.deferring = weights_later || stage.queue.filling;
  if (stage.model->shard().last) {
    kept.output.backward();
  } else if (kept.output.requires_grad()) {
    torch::autograd::backward({kept.output}, {gradient});
  }
  while (stage.queue.fill()) {
  }
  stage.queue.deferring = stage.queue.filling = false;
  kept.weights = std::exchange(stage.queue.waiting, {});
  at::Tensor d_input;
  if (kept.input.defined()) d_input = kept.input.grad();
  kept.input = kept.output = at::Tensor();
  kept.mtp.clear();
  return d_input;
}

void StageRun::run_weights(const Stage& stage, int32_t microbatch) {
  const auto kept = kept_.find({stage.number, microbatch});
  for (const auto& work : kept->second.weights) work();
  kept_.erase(kept);
}

void StageRun::add_loss(model::CausalLM& model, int32_t microbatch, const kernels::Targets& targets, Kept& kept) {
  const at::Tensor hidden = kept.output;
  kernels::CrossEntropy main;
  if (Objective* objective = terms().objective) {
    main = model.loss(hidden, targets, {objective->temperature(), [&](const float* log_probs, const float* entropies, float* weights) {
                        return objective->weigh(static_cast<size_t>(microbatch), log_probs, entropies, weights);
                      }});
  } else {
    main = model.loss(hidden, targets);
  }
  losses_.push_back(main.loss.detach());
  kept.output = main.loss;
  if (terms().mtp_weights.empty()) return;
  const data::MicroBatch& micro = at(microbatch);
  kept.mtp = model::mtp_rows(micro.tokens, micro.segments, targets, terms().mtp_weights, micro.row_starts);
  for (const auto& module : model.mtp_losses(hidden, kept.mtp, terms().routing)) {
    mtp_losses_.push_back(module.loss.detach());
    kept.output = kept.output + module.loss;
  }
}

RehearsedRun::RehearsedRun(const std::vector<std::unique_ptr<Stage>>& stages, const std::vector<data::MicroBatch>& micro_batches,
                           const LossTerms& terms, const model::ModelConfig& config, const PassageSource& passages, const moe::Wire& wire,
                           bool blocks_again)
    : StepRun(stages, micro_batches, terms, true, Boundary{config.hidden_size}), config_(config), passages_(passages), wire_(wire), blocks_again_(blocks_again) {}

at::Tensor RehearsedRun::boundary(int32_t microbatch) const {
  return at::empty(boundary_shape(microbatch), at::TensorOptions(at::kFloat).device(at::kMeta));
}

void RehearsedRun::exchange_tokens(const parallel::ExpertAxis& axis, int64_t tokens, std::vector<Exchange>& done) {
  for (auto* group : axis.two_hops() ? std::vector{axis.across, axis.within} : std::vector{axis.ranks}) {
    done.push_back({group, passages_(*group, tokens)});
    tokens = 0;  // the second hop starts with what arrived
    for (int64_t rows : done.back().passage.arriving) tokens += rows;
    moe::rehearse(*group, done.back().passage, config_.moe.experts_per_token, config_.hidden_size, wire_, axis.two_hops(), false);
  }
}

at::Tensor RehearsedRun::run_forward(Stage& stage, int32_t microbatch, at::Tensor) {
  const model::Shard& shard = stage.model->shard();
  auto& layers = kept_[{stage.number, microbatch}];
  const auto count = [&](bool mtp) { return stage.model->routers(mtp).size(); };
  if (shard.shares_experts()) {
    const auto& micro = at(microbatch);
    layers.resize(count(!terms().mtp_weights.empty()));
    for (size_t i = 0; i < layers.size(); ++i) {
      auto tokens = static_cast<int64_t>(micro.tokens.size());
      if (i >= count(false)) {  // an MTP module's rows are a document's tokens without the last ones
        const auto depth = static_cast<int64_t>(i - count(false)) + 1;
        tokens = 0;
        for (const auto& segment : micro.segments) tokens += std::max<int64_t>(0, segment.length - depth);
      }
      exchange_tokens(shard.ep, tokens, layers[i]);
    }
  }
  return shard.last ? at::Tensor() : boundary(microbatch);
}

at::Tensor RehearsedRun::run_backward(Stage& stage, int32_t microbatch, const at::Tensor&, bool) {
  const model::Shard& shard = stage.model->shard();
  const auto kept = kept_.find({stage.number, microbatch});
  for (auto layer = kept->second.rbegin(); layer != kept->second.rend(); ++layer) {
    std::vector<Exchange> again;
    if (blocks_again_) exchange_tokens(shard.ep, static_cast<int64_t>(at(microbatch).tokens.size()), again);
    for (const Exchange& e : *layer)
      moe::rehearse(*e.group, e.passage, config_.moe.experts_per_token, config_.hidden_size, wire_, shard.ep.two_hops(), true);
  }
  kept_.erase(kept);
  return shard.first ? at::Tensor() : boundary(microbatch);
}

}  // namespace tessera::trainer
