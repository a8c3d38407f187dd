// The keys of a recipe, each listed once. `Visitor` reads them from a file or writes them out.
#pragma once

#include "pipeline/config.h"
#include "recipes/recipe.h"
#include "rl/config.h"
#include "trainer/config.h"

namespace tessera::recipes {

template <typename Visitor>
void describe(Visitor& v, model::LoraConfig& c) {
  v.field("r", c.r);
  v.field("alpha", c.alpha);
  v.field("dropout", c.dropout);
  v.field("base", c.base);
  v.field("target_modules", c.target_modules);
}

template <typename Visitor>
void describe(Visitor& v, trainer::ModelSource& c) {
  v.field("path", c.path);
  v.field("config", c.config);
  v.field("tokenizer", c.tokenizer);
  v.optional_section("lora", c.lora);
}

template <typename Visitor>
void describe(Visitor& v, data::SourceConfig& c) {
  v.field("path", c.path);
  v.field("weight", c.weight);
}

template <typename Visitor>
void describe(Visitor& v, data::DataConfig& c) {
  v.list("train", c.train);
  v.list("validation", c.validation);
  v.field("sequence_length", c.sequence_length);
  v.field("packing", c.packing);
  v.field("overlong", c.overlong);
}

template <typename Visitor>
void describe(Visitor& v, parallel::ParallelConfig& c) {
  v.field("pp", c.pp);
  v.field("ep", c.ep);
  v.field("pipeline_schedule", c.pipeline_schedule);
  v.field("stages_per_rank", c.stages_per_rank);
  v.field("zero", c.zero);
  v.field("ranks_per_node", c.ranks_per_node);
}

template <typename Visitor>
void describe(Visitor& v, trainer::PrecisionConfig& c) {
  v.field("compute", c.compute);
  v.field("fp8", c.fp8);
  v.field("fp8_power_of_two_scales", c.fp8_power_of_two_scales);
  v.field("dispatch", c.dispatch);
  v.field("combine", c.combine);
}

template <typename Visitor>
void describe(Visitor& v, trainer::OptimizerConfig& c) {
  v.field("name", c.name);
  v.field("lr", c.lr);
  v.field("betas", c.betas);
  v.field("eps", c.eps);
  v.field("weight_decay", c.weight_decay);
  v.field("grad_clip", c.grad_clip);
  v.field("moments", c.moments);
  v.field("moment_rounding", c.moment_rounding);
}

template <typename Visitor>
void describe(Visitor& v, trainer::LrScheduleConfig& c) {
  v.field("name", c.name);
  v.field("warmup_steps", c.warmup_steps);
  v.field("final_lr", c.final_lr);
  v.field("decay_steps", c.decay_steps);
}

template <typename Visitor>
void describe(Visitor& v, trainer::BatchRampConfig& c) {
  v.field("from", c.from);
  v.field("steps", c.steps);
}

template <typename Visitor>
void describe(Visitor& v, trainer::StepConfig& c) {
  v.field("steps", c.steps);
  v.field("sequences_per_step", c.sequences_per_step);
  v.section("batch_ramp", c.batch_ramp);
  v.field("sequences_per_microbatch", c.sequences_per_microbatch);
  v.field("recompute", c.recompute);
  v.field("max_nonfinite_steps", c.max_nonfinite_steps);
}

template <typename Visitor>
void describe(Visitor& v, trainer::MoeTrainingConfig& c) {
  v.field("bias_update_rate", c.bias_update_rate);
  v.field("sequence_balance_loss", c.sequence_balance_loss);
  v.field("z_loss", c.z_loss);
}

template <typename Visitor>
void describe(Visitor& v, trainer::MtpTrainingConfig& c) {
  v.field("loss_weight", c.loss_weight);
}

template <typename Visitor>
void describe(Visitor& v, trainer::CheckpointConfig& c) {
  v.field("every", c.every);
  v.field("keep", c.keep);
  v.field("background", c.background);
}

template <typename Visitor>
void describe(Visitor& v, trainer::EvaluateConfig& c) {
  v.field("every", c.every);
}

template <typename Visitor>
void describe(Visitor& v, trainer::LogConfig& c) {
  v.field("every", c.every);
  v.field("tensorboard", c.tensorboard);
  v.field("communication", c.communication);
}

template <typename Visitor>
void describe(Visitor& v, trainer::CommunicationConfig& c) {
  v.field("timeout_seconds", c.timeout_seconds);
}

template <typename Visitor>
void describe(Visitor& v, rl::RewardConfig& c) {
  v.field("name", c.name);
  v.field("weight", c.weight);
  v.field("tolerance", c.tolerance);
  v.field("field", c.field);
  v.field("pattern", c.pattern);
  v.field("language", c.language);
  v.field("target_length", c.target_length);
  v.field("max_length", c.max_length);
  v.field("command", c.command);
  v.field("library", c.library);
  v.field("deadline_seconds", c.deadline_seconds);
  v.field("memory_mb", c.memory_mb);
  v.field("processes", c.processes);
  v.field("file_mb", c.file_mb);
}

template <typename Visitor>
void describe(Visitor& v, rl::RlConfig& c) {
  v.field("rollouts_per_prompt", c.rollouts_per_prompt);
  v.field("max_new_tokens", c.max_new_tokens);
  v.field("temperature", c.temperature);
  v.field("top_p", c.top_p);
  v.field("stop", c.stop);
  v.field("generation_batch", c.generation_batch);
  v.field("objective", c.objective);
  v.field("advantage", c.advantage);
  v.field("scale_advantage", c.scale_advantage);
  v.field("clip_low", c.clip_low);
  v.field("clip_high", c.clip_high);
  v.field("kl_coefficient", c.kl_coefficient);
  v.field("reference_refresh_every", c.reference_refresh_every);
  v.field("updates_per_rollout", c.updates_per_rollout);
  v.field("importance_cap", c.importance_cap);
  v.field("mask_truncated", c.mask_truncated);
  v.field("skip_zero_advantage", c.skip_zero_advantage);
  v.field("dynamic_sampling", c.dynamic_sampling);
  v.field("max_resamples", c.max_resamples);
  v.field("staleness", c.staleness);
  v.field("routing_replay", c.routing_replay);
  v.field("samples_every", c.samples_every);
  v.list("rewards", c.rewards);
}

template <typename Visitor>
void describe(Visitor& v, pipeline::MixConfig& c) {
  v.field("path", c.path);
  v.field("share", c.share);
}

template <typename Visitor>
void describe(Visitor& v, pipeline::SelectionConfig& c) {
  v.field("keep_per_prompt", c.keep_per_prompt);
  v.field("minimum_reward", c.minimum_reward);
  v.field("readable", c.readable);
  v.list("mix", c.mix);
  v.field("limit", c.limit);
}

template <typename Visitor>
void describe(Visitor& v, pipeline::DistillConfig& c) {
  v.field("teacher", c.teacher);
  v.field("samples_per_prompt", c.samples_per_prompt);
  v.field("max_new_tokens", c.max_new_tokens);
  v.field("temperature", c.temperature);
  v.field("top_p", c.top_p);
  v.field("generation_batch", c.generation_batch);
  v.list("rewards", c.rewards);
  describe(v, c.selection);
}

template <typename Visitor>
void describe(Visitor& v, pipeline::ReportConfig& c) {
  v.list("data", c.data);
  v.list("rewards", c.rewards);
  v.field("max_new_tokens", c.max_new_tokens);
  v.field("generation_batch", c.generation_batch);
}

template <typename Visitor>
void describe(Visitor& v, trainer::TrainerConfig& c) {
  v.field("name", c.name);
  v.field("task", c.task);
  v.field("seed", c.seed);
  v.field("output", c.output);
  v.section("model", c.model);
  v.section("data", c.data);
  v.section("parallel", c.parallel);
  v.section("precision", c.precision);
  v.section("optimizer", c.optimizer);
  v.section("lr_schedule", c.lr_schedule);
  v.section("train", c.train);
  v.section("moe", c.moe);
  v.section("mtp", c.mtp);
  v.section("checkpoint", c.checkpoint);
  v.section("evaluate", c.evaluate);
  v.section("log", c.log);
  v.section("communication", c.communication);
}

template <typename Visitor>
void describe(Visitor& v, rl::DpoConfig& c) {
  v.field("beta", c.beta);
  v.field("label_smoothing", c.label_smoothing);
}

template <typename Visitor>
void describe(Visitor& v, Recipe& recipe) {
  describe(v, recipe.config);
  v.optional_section("rl", recipe.rl);
  v.optional_section("dpo", recipe.dpo);
}

}  // namespace tessera::recipes
