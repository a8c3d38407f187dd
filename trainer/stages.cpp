#include "trainer/stages.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <set>
#include <utility>

#include "core/error.h"
#include "kernels/accelerator.h"
#include "kernels/fp8/block_matrix.h"
#include "parallel/pipeline_check.h"
#include "trainer/stage_run.h"

namespace tessera::trainer {

using Replicas = model::CausalLM::Replicas;

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
    shard.queue = &stage->queue;
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

void Stages::make_trainable(bool adapters, at::ScalarType values, c10::Device device) {
  values_ = values;
  device_ = device;
  const bool narrow = kernels::accelerator_of(device.type()) != nullptr;
  using Items = std::vector<parallel::FlatBuckets::Item>;
  const auto make = [&](const Items& items, Replicas replicas, int zero_stage, std::string name) -> parallel::FlatBuckets* {
    if (items.empty()) return nullptr;
    const bool nowhere = items.front().parameter->value.is_meta();
    buckets_.push_back(std::make_unique<parallel::FlatBuckets>(
        items, group(replicas),
        parallel::BucketOptions{.zero_stage = zero_stage, .values = values_,
                                .storage = at::TensorOptions(narrow ? values_ : at::kFloat).device(nowhere ? c10::Device(at::kMeta) : device_),
                                .name = std::move(name)}));
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
  if (narrow) move_the_rest();
}

/// What no bucket holds: frozen weights, and buffers, which stay float32.
void Stages::move_the_rest() {
  std::set<const kernels::Parameter*> seen;
  for (const auto& weight : weights(false)) {
    kernels::Parameter& parameter = *weight.parameter;
    if (parameter.trainable() || !seen.insert(&parameter).second) continue;
    kernels::move_to(parameter, device_, weight.buffer ? at::kFloat : values_);
  }
}

void Stages::adopt_values() {
  const at::NoGradGuard no_grad;
  for (const auto& buckets : buckets_) buckets->adopt_values();
  if (values_ == at::kFloat) return;
  std::set<const kernels::Parameter*> seen;
  for (const auto& weight : weights(false))
    if (!weight.buffer && !weight.parameter->trainable() && seen.insert(weight.parameter.get()).second)
      weight.parameter->value.copy_(weight.parameter->value.to(values_));
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

data::StepPlan Stages::step_plan(const StepConfig& config, int64_t first_step) const {
  const parallel::MicrobatchRule rule = microbatch_rule();
  return {.sequences_per_step = config.sequences_per_step, .ramp_from = config.batch_ramp.from, .ramp_steps = config.batch_ramp.steps,
          .sequences_per_microbatch = config.sequences_per_microbatch, .dp_rank = mesh_.axis("dp").rank(), .dp_size = mesh_.axis("dp").size(),
          .first_step = first_step, .microbatch_multiple = rule.multiple_of, .min_microbatches = rule.at_least};
}

StepLoss Stages::forward_backward(const data::StepBatch& batch, const LossTerms& terms) {
  StageRun run(stages_, batch.micro_batches, terms, true, boundary());
  const auto& plan = carry_out(batch, run);
  const int32_t allowed = parallel::peak_activations(plan)[static_cast<size_t>(mesh_.coordinate("pp"))];
  TESSERA_CHECK(static_cast<int32_t>(run.peak_kept()) <= allowed, "kept ", run.peak_kept(), " micro-batches' activations, ", plan.name, " allows ", allowed);
  return run.loss();
}

void Stages::rehearse(const data::StepBatch& batch, const LossTerms& terms, const PassageSource& passages, const moe::Wire& wire, bool blocks_again) {
  RehearsedRun run(stages_, batch.micro_batches, terms, config_, passages, wire, blocks_again);
  carry_out(batch, run);
}

Boundary Stages::boundary() const {
  const bool narrow = kernels::accelerator_of(device_.type()) != nullptr;
  return {config_.hidden_size, at::TensorOptions(narrow ? values_ : at::kFloat).device(device_)};
}

const parallel::PipelineSchedule& Stages::carry_out(const data::StepBatch& batch, StepRun& run) {
  const auto& plan = schedule(static_cast<int32_t>(batch.micro_batches.size()));
  run.expect(plan.ranks[static_cast<size_t>(mesh_.coordinate("pp"))]);
  runtime_.run(plan, run);
  return plan;
}

double Stages::evaluate(const std::vector<data::MicroBatch>& micro_batches, Objective* objective) {
  at::NoGradGuard no_grad;
  if (micro_batches.empty()) return 0;
  const auto count = static_cast<int32_t>(micro_batches.size());
  const parallel::MicrobatchRule rule = microbatch_rule();
  const auto plan = parallel::make_forward_only(schedule(std::max(rule.at_least, rule.multiple_of)), count);
  const LossTerms terms{.target_weight = 1.0f, .mtp_weights = {}, .routing = {}, .objective = objective};
  StageRun run(stages_, micro_batches, terms, false, boundary());
  runtime_.run(plan, run);
  return run.loss().cross_entropy;
}

}  // namespace tessera::trainer
