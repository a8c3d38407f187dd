#include "trainer/stages.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <functional>
#include <set>
#include <utility>

#include "core/error.h"
#include "parallel/pipeline_check.h"
#include "trainer/model_batch.h"

namespace tessera::trainer {

namespace {

using parallel::ActionKind;
using Replicas = model::CausalLM::Replicas;

/// The work of one step, or of one evaluation.
class StageRun final : public parallel::StageWork {
 public:
  StageRun(const std::vector<std::unique_ptr<Stage>>& stages, const std::vector<data::MicroBatch>& micro_batches, const LossTerms& terms,
           bool training, int64_t dim)
      : micro_batches_(micro_batches), terms_(terms), training_(training), dim_(dim) {
    for (const auto& stage : stages) stages_[stage->number].stage = stage.get();
  }

  /// Counts the weight gradients that are to come.
  void expect(const std::vector<parallel::Step>& steps) {
    for (const auto& step : steps)
      for (const parallel::Action* action : {&step.first, step.second ? &*step.second : nullptr})
        if (action != nullptr && (action->kind == ActionKind::kBackward || action->kind == ActionKind::kBackwardWeight))
          ++stages_.at(action->stage).left;
  }

  [[nodiscard]] std::vector<int64_t> boundary_shape(int32_t microbatch) const override {
    return {passed_over(microbatch) ? 0 : static_cast<int64_t>(at(microbatch).tokens.size()), dim_};
  }

  at::Tensor forward(int32_t number, int32_t microbatch, at::Tensor input) override {
    if (passed_over(microbatch)) return {};
    State& state = stages_.at(number);
    model::CausalLM& model = *state.stage->model;
    // Without a pipeline all other micro-batches are done by now, and what the last one completes can be reduced.
    if (training_ && model.shard().first && model.shard().last)
      for (auto* buckets : state.stage->buckets)
        if (buckets->reduces_each_microbatch() || microbatch + 1 == static_cast<int32_t>(micro_batches_.size())) buckets->start_overlap();
    const data::MicroBatch& micro = at(microbatch);
    const ModelBatch tensors = to_model_batch(micro, terms_.target_weight);
    Kept kept;
    if (!model.shard().first) kept.input = input.detach().requires_grad_(training_);
    kept.output = model.hidden_states(model.shard().first ? tensors.tokens : kept.input, tensors.positions, micro.segments, terms_.routing);
    at::Tensor handed_on;
    if (model.shard().last) {
      add_loss(model, tensors, micro, kept);
    } else {
      handed_on = kept.output.detach();
    }
    if (training_) kept_[{number, microbatch}] = std::move(kept);
    return handed_on;
  }

  at::Tensor backward(int32_t number, int32_t microbatch, at::Tensor gradient, bool weights_later) override {
    at::Tensor d_input;
    if (!passed_over(microbatch)) {
      State& state = stages_.at(number);
      Kept& kept = kept_.at({number, microbatch});
      state.stage->queue.deferring = weights_later;
      if (state.stage->model->shard().last) {
        kept.output.backward();
      } else if (kept.output.requires_grad()) {
        torch::autograd::backward({kept.output}, {gradient});
      }
      state.stage->queue.deferring = false;
      kept.weights = std::exchange(state.stage->queue.waiting, {});
      if (kept.input.defined()) d_input = kept.input.grad();
      kept.input = kept.output = at::Tensor();
      kept.mtp.clear();
    }
    if (!weights_later) backward_weights(number, microbatch);
    return d_input;
  }

  void backward_weights(int32_t number, int32_t microbatch) override {
    if (const auto kept = kept_.find({number, microbatch}); kept != kept_.end()) {
      for (const auto& work : kept->second.weights) work();
      kept_.erase(kept);
    }
    State& state = stages_.at(number);
    --state.left;
    for (auto* buckets : state.stage->buckets)
      if (buckets->reduces_each_microbatch()) buckets->start_reduction();
    start_reductions();
  }

  [[nodiscard]] const StepLoss& loss() const { return loss_; }

 private:
  struct State {
    Stage* stage = nullptr;
    int64_t left = 0;  // micro-batches whose weight gradients are still to come
    bool reducing = false;
  };
  /// What the backward pass of a micro-batch needs.
  struct Kept {
    at::Tensor input, output;  // of the last stage the loss
    std::vector<model::MtpRows> mtp;
    std::vector<std::function<void()>> weights;
  };

  /// The last stages first, as they are done; in this order on every rank, also on those that hold copies of the same stages
  /// and come to them in another.
  void start_reductions() {
    for (auto entry = stages_.rbegin(); entry != stages_.rend() && entry->second.left == 0; ++entry) {
      if (std::exchange(entry->second.reducing, true)) continue;
      for (auto* buckets : entry->second.stage->buckets)
        if (!buckets->reduces_each_microbatch()) buckets->start_reduction();
    }
  }

  [[nodiscard]] const data::MicroBatch& at(int32_t microbatch) const { return micro_batches_[static_cast<size_t>(microbatch)]; }

  /// Without targets nothing is learnt, but routers are still balanced; where experts lie on other ranks these wait for us.
  [[nodiscard]] bool passed_over(int32_t microbatch) const {
    if (stages_.begin()->second.stage->model->shard().shares_experts()) return false;
    return at(microbatch).tokens.empty() || (at(microbatch).targets.empty() && !terms_.routing.statistics);
  }

  void add_loss(model::CausalLM& model, const ModelBatch& tensors, const data::MicroBatch& micro, Kept& kept) {
    const at::Tensor hidden = kept.output;
    const kernels::CrossEntropy main = model.loss(hidden, tensors.targets);
    loss_.cross_entropy += main.loss.item<double>();
    kept.output = main.loss;
    if (terms_.mtp_weights.empty()) return;
    kept.mtp = model::mtp_rows(micro.tokens, micro.segments, tensors.targets, terms_.mtp_weights);
    for (const auto& module : model.mtp_losses(hidden, kept.mtp, terms_.routing)) {
      loss_.mtp += module.loss.item<double>();
      kept.output = kept.output + module.loss;
    }
  }

  std::map<int32_t, State> stages_;
  const std::vector<data::MicroBatch>& micro_batches_;
  const LossTerms& terms_;
  bool training_;
  int64_t dim_;
  std::map<std::pair<int32_t, int32_t>, Kept> kept_;
  StepLoss loss_;
};

}  // namespace

Stages::Stages(const model::ModelConfig& config, const parallel::Mesh& mesh, const parallel::ParallelConfig& parallel, bool mtp,
               std::vector<moe::Passage>* passages)
    : config_(config), mesh_(mesh), schedule_name_(parallel.pp == 1 ? "1f1b" : parallel.pipeline_schedule),
      stages_per_rank_(static_cast<int32_t>(parallel.stages_per_rank)), zero_stage_(static_cast<int>(parallel.zero)), mtp_(mtp), runtime_(mesh.axis("pp")) {
  if (parallel.ep > 1 && !config.has_experts())
    throw ConfigError(detail::concat("parallel.ep = ", parallel.ep, " shares out experts, and the model (", config.model_type, ") has none; set it to 1"));
  const parallel::MicrobatchRule rule = microbatch_rule();
  placement_ = schedule(std::max(rule.at_least, rule.multiple_of)).placement;
  groups_ = std::make_unique<parallel::ReplicaGroups>(mesh, placement_);
  plan_ = model::plan_stages(config, static_cast<int64_t>(placement_.routes.front().size()), mtp);
  kernels::ParameterPtr embedding;
  for (int32_t number : placement_.stages_of(static_cast<int32_t>(mesh.coordinate("pp")))) {
    auto stage = std::make_unique<Stage>();
    stage->number = number;
    model::Shard shard = plan_[static_cast<size_t>(number)];
    shard.ep = mesh.experts();
    shard.passages = passages;
    shard.embedding = embedding;
    stage->model = std::make_unique<model::CausalLM>(config, shard);
    if (shard.first) embedding = stage->model->embedding();
    stages_.push_back(std::move(stage));
  }
}

std::vector<std::string> Stages::table() const {
  std::vector<std::string> lines;
  const int64_t dp = mesh_.size("dp"), ep = mesh_.size("ep");
  for (int64_t p = 0; p < mesh_.size("pp"); ++p) {
    std::string line = detail::concat("pp ", p, ": ranks ", p * dp, "-", (p + 1) * dp - 1, "; layers");
    for (int32_t number : placement_.stages_of(static_cast<int32_t>(p))) {
      const model::Shard& shard = plan_[static_cast<size_t>(number)];
      line += detail::concat(' ', shard.begin_layer, "-", shard.end_layer - 1, shard.first ? " with embedding" : "", shard.last ? " with head" : "");
    }
    if (ep > 1) line += detail::concat("; ", config_.moe.num_experts / ep, " experts of each layer a rank");
    lines.push_back(std::move(line));
  }
  return lines;
}

std::vector<model::CausalLM*> Stages::models() const {
  std::vector<model::CausalLM*> models;
  for (const auto& stage : stages_) models.push_back(stage->model.get());
  return models;
}

parallel::MicrobatchRule Stages::microbatch_rule() const {
  return parallel::microbatch_rule(schedule_name_, static_cast<int32_t>(mesh_.size("pp")));
}

const parallel::PipelineSchedule& Stages::schedule(int32_t microbatches) {
  const auto found = schedules_.find(microbatches);
  if (found != schedules_.end()) return found->second;
  auto made = parallel::make_pipeline_schedule(schedule_name_, static_cast<int32_t>(mesh_.size("pp")), microbatches, stages_per_rank_);
  parallel::check(made);
  return schedules_.emplace(microbatches, std::move(made)).first->second;
}

parallel::Communicator& Stages::group(Replicas replicas) const {
  switch (replicas) {
    case Replicas::kStage: return groups_->stage();
    case Replicas::kExperts: return mesh_.size("ep") == 1 ? groups_->stage() : groups_->experts();
    case Replicas::kEnds: return groups_->ends();
  }
  return groups_->stage();
}

void Stages::make_trainable(bool adapters) {
  using Items = std::vector<parallel::FlatBuckets::Item>;
  const auto make = [&](const Items& items, Replicas replicas, int zero_stage, std::string name) -> parallel::FlatBuckets* {
    if (items.empty()) return nullptr;
    buckets_.push_back(std::make_unique<parallel::FlatBuckets>(
        items, group(replicas), parallel::BucketOptions{.zero_stage = zero_stage, .name = std::move(name)}));
    return buckets_.back().get();
  };
  Items ends;  // an embedding that several stages use
  std::map<const kernels::Parameter*, size_t> place_of;
  for (const auto& stage : stages_) {
    Items whole, experts;
    for (const auto& weight : stage->model->weights()) weight.parameter->queue = &stage->queue;
    if (adapters) {
      for (const auto& weight : stage->model->adapter_weights()) whole.push_back({weight.parameter, 1});
    } else {
      for (const auto& used : stage->model->parameters(mtp_)) {
        const bool apart = used.replicas == Replicas::kExperts && mesh_.size("ep") > 1;
        const bool at_ends = used.replicas == Replicas::kEnds && !(stage->model->shard().first && stage->model->shard().last);
        if (!at_ends) {
          (apart ? experts : whole).push_back({used.parameter, used.uses});
        } else if (const auto [place, added] = place_of.emplace(used.parameter.get(), ends.size()); added) {
          ends.push_back({used.parameter, used.uses});
        } else {
          ends[place->second].uses += used.uses;
        }
      }
    }
    const std::string name = "stage " + std::to_string(stage->number);
    for (auto* made : {make(whole, Replicas::kStage, zero_stage_, name), make(experts, Replicas::kExperts, zero_stage_, name + "'s experts")})
      if (made != nullptr) stage->buckets.push_back(made);
  }
  make(ends, Replicas::kEnds, 1, "both ends");  // whose stages come to a micro-batch at different times
}

std::vector<parallel::FlatBuckets*> Stages::buckets() const {
  std::vector<parallel::FlatBuckets*> buckets;
  for (const auto& each : buckets_) buckets.push_back(each.get());
  return buckets;
}

std::vector<model::NamedWeight> Stages::weights(bool adapters) const {
  std::vector<model::NamedWeight> list;
  std::set<std::string> seen;
  for (const auto& stage : stages_)
    for (auto& weight : adapters ? stage->model->adapter_weights() : stage->model->weights())
      if (seen.insert(weight.name).second) list.push_back(std::move(weight));
  return list;
}

std::vector<model::NamedWeight> Stages::constants(bool adapters, bool to_write) const {
  std::map<const kernels::Parameter*, Replicas> replicas;  // a router's bias, which is not listed, goes with the stage
  for (const auto& stage : stages_)
    for (const auto& used : stage->model->parameters(true)) replicas[used.parameter.get()] = used.replicas;
  std::vector<model::NamedWeight> list;
  for (auto& weight : weights(adapters)) {
    if (weight.parameter->trainable()) continue;
    const auto found = replicas.find(weight.parameter.get());
    if (!to_write || group(found == replicas.end() ? Replicas::kStage : found->second).rank() == 0) list.push_back(std::move(weight));
  }
  return list;
}

std::vector<moe::LayerRouter> Stages::routers() const {
  std::vector<moe::LayerRouter> routers;
  for (const auto& stage : stages_)
    for (const auto& router : stage->model->routers(mtp_)) routers.push_back(router);
  return routers;
}

std::vector<int64_t> Stages::moe_layers() const {
  std::vector<int64_t> layers;
  if (!config_.has_experts()) return layers;
  for (int64_t l = 0; l < config_.num_hidden_layers + (mtp_ ? config_.num_mtp_modules : 0); ++l)
    if (config_.is_moe_layer(l)) layers.push_back(l);
  return layers;
}

StepLoss Stages::forward_backward(const data::StepBatch& batch, const LossTerms& terms) {
  const auto& plan = schedule(static_cast<int32_t>(batch.micro_batches.size()));
  StageRun run(stages_, batch.micro_batches, terms, true, config_.hidden_size);
  run.expect(plan.ranks[static_cast<size_t>(mesh_.coordinate("pp"))]);
  runtime_.run(plan, run);
  return run.loss();
}

double Stages::evaluate(const std::vector<data::MicroBatch>& micro_batches) {
  at::NoGradGuard no_grad;
  if (micro_batches.empty()) return 0;
  const auto count = static_cast<int32_t>(micro_batches.size());
  const parallel::MicrobatchRule rule = microbatch_rule();
  const auto plan = parallel::make_forward_only(schedule(std::max(rule.at_least, rule.multiple_of)), count);
  const LossTerms terms{.target_weight = 1.0f, .mtp_weights = {}, .routing = {}};
  StageRun run(stages_, micro_batches, terms, false, config_.hidden_size);
  runtime_.run(plan, run);
  return run.loss().cross_entropy;
}

}  // namespace tessera::trainer
