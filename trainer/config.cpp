#include "trainer/config.h"

#include <cmath>

#include "core/error.h"
#include "core/text.h"
#include "model/hf_folder.h"

namespace tessera::trainer {

namespace {

void require(bool holds, const std::string& message) {
  if (!holds) throw ConfigError(message);
}

void require_known(const std::string& key, const std::string& value, const std::vector<std::string>& known) {
  for (const auto& name : known)
    if (name == value) return;
  const std::string near = nearest_name(value, known);
  throw ConfigError(key + " = '" + value + "' is not known; use one of " + join(known) +
                    (near.empty() ? "" : " (did you mean '" + near + "'?)"));
}

void require_positive(const std::string& key, int64_t value) {
  require(value > 0, detail::concat(key, " = ", value, " must be at least 1"));
}

void require_not_negative(const std::string& key, double value) {
  require(std::isfinite(value) && value >= 0, detail::concat(key, " = ", value, " must be 0 or more"));
}

}  // namespace

model::ModelConfig ModelSource::load_config() const {
  return path.empty() ? model::ModelConfig::from_json(config, "model.config") : model::load_config(path);
}

void ModelSource::validate() const {
  require(path.empty() != config.is_null(),
          "model needs either 'path' (a Hugging Face folder) or 'config' (fresh weights), and not both");
  require(!tokenizer_folder().empty(), "model.tokenizer is missing: with model.config it names the folder of the tokenizer");
  require(!(lora && !config.is_null()), "model.lora adapts trained weights: it needs model.path");
  if (lora) lora->validate();
}

void PrecisionConfig::validate() const {
  require_known("precision.compute", compute, {"float32", "bfloat16"});
  std::vector<std::string> known = {"none"};
  for (const auto& recipe : kernels::fp8::recipes())
    if (recipe.name != "bfloat16") known.push_back(recipe.name);
  require_known("precision.fp8", fp8, known);
  require_known("precision.dispatch", dispatch, {"float32", "bfloat16", "fp8"});
  require_known("precision.combine", combine, {"float32", "bfloat16"});
  require(fp8 != "none" || dispatch == "fp8" || !fp8_power_of_two_scales,
          "precision.fp8_power_of_two_scales has no effect while precision.fp8 = none and precision.dispatch is not fp8; leave it out");
}

moe::Wire PrecisionConfig::wire() const {
  using Kind = kernels::RowFormat::Kind;
  const auto format = [&](const std::string& name) {
    return kernels::RowFormat{name == "fp8" ? Kind::kFp8 : name == "bfloat16" ? Kind::kBfloat16 : Kind::kFloat32, fp8_power_of_two_scales};
  };
  return {format(dispatch), format(combine)};
}

std::optional<kernels::fp8::Recipe> PrecisionConfig::recipe() const {
  const kernels::fp8::Recipe* found = kernels::fp8::find_recipe(fp8 == "none" ? compute : fp8);
  if (found == nullptr) return std::nullopt;
  kernels::fp8::Recipe recipe = *found;
  recipe.power_of_two_scales = fp8_power_of_two_scales;
  return recipe;
}

void OptimizerConfig::validate() const {
  require_known("optimizer.name", name, {"adamw"});
  require(std::isfinite(lr) && lr > 0, detail::concat("optimizer.lr = ", lr, " must be positive, for instance 2.0e-4"));
  require(betas.size() == 2, "optimizer.betas must be two numbers, for instance [0.9, 0.95]");
  for (double beta : betas)
    require(beta >= 0 && beta < 1, detail::concat("optimizer.betas: ", beta, " must be in [0, 1)"));
  require(std::isfinite(eps) && static_cast<float>(eps) > 0, detail::concat("optimizer.eps = ", eps, " must be positive in float32, for instance 1.0e-8"));
  require_not_negative("optimizer.weight_decay", weight_decay);
  require_not_negative("optimizer.grad_clip", grad_clip);
  require_known("optimizer.moments", moments, {"float32", "bfloat16"});
  require_known("optimizer.moment_rounding", moment_rounding, {"nearest", "stochastic"});
  require(moment_rounding == "nearest" || moments == "bfloat16",
          "optimizer.moment_rounding = stochastic rounds moments in bfloat16; set optimizer.moments to it, or leave the key out");
}

void LrScheduleConfig::validate() const {
  require_known("lr_schedule.name", name, {"constant", "linear", "cosine", "wsd"});
  require_not_negative("lr_schedule.warmup_steps", static_cast<double>(warmup_steps));
  require(final_lr >= 0 && final_lr <= 1, detail::concat("lr_schedule.final_lr = ", final_lr, " is a share of lr, in [0, 1]"));
  require_not_negative("lr_schedule.decay_steps", static_cast<double>(decay_steps));
}

void StepConfig::validate() const {
  require(steps > 0, "train.steps is missing or not positive: the number of optimizer steps, for instance 200");
  require_positive("train.sequences_per_step", sequences_per_step);
  constexpr int64_t kMostSequences = 1 << 24;
  require(sequences_per_step <= kMostSequences,
          detail::concat("train.sequences_per_step = ", sequences_per_step, " must be at most ", kMostSequences));
  require_positive("train.sequences_per_microbatch", sequences_per_microbatch);
  require_not_negative("train.batch_ramp.steps", static_cast<double>(batch_ramp.steps));
  require(batch_ramp.steps == 0 || (batch_ramp.from >= 1 && batch_ramp.from <= sequences_per_step),
          detail::concat("train.batch_ramp.from = ", batch_ramp.from, " must be in [1, train.sequences_per_step = ", sequences_per_step, "]"));
  require_known("train.recompute", recompute, {"none", "selective", "full"});
  require_positive("train.max_nonfinite_steps", max_nonfinite_steps);
}

void MoeTrainingConfig::validate() const {
  require_not_negative("moe.bias_update_rate", bias_update_rate);
  require_not_negative("moe.sequence_balance_loss", sequence_balance_loss);
  require_not_negative("moe.z_loss", z_loss);
}

void MtpTrainingConfig::validate() const { require_not_negative("mtp.loss_weight", loss_weight); }

void CheckpointConfig::validate() const {
  require_not_negative("checkpoint.every", static_cast<double>(every));
  require_positive("checkpoint.keep", keep);
}

void EvaluateConfig::validate() const { require_not_negative("evaluate.every", static_cast<double>(every)); }

void LogConfig::validate() const { require_positive("log.every", every); }

void CommunicationConfig::validate() const {
  require(std::isfinite(timeout_seconds) && timeout_seconds >= 1,
          detail::concat("communication.timeout_seconds = ", timeout_seconds, " must be at least 1"));
}

void TrainerConfig::validate() const {
  require_known("task", task, {"pretrain", "sft", "dpo", "grpo", "reject", "distill", "pipeline"});
  require(task != "reject" && task != "distill", "task = " + task + " is a stage of task: pipeline; put it into the list 'stages'");
  require(!name.empty(), "name is empty; give the run a name, or leave the key out");
  require(!output.empty(), "output is missing: the run's folder, for instance runs/" + name);
  require(!data.train.empty(), "data.train is missing: a list of {path, weight}");
  model.validate();
  data.validate();
  precision.validate();
  optimizer.validate();
  lr_schedule.validate();
  train.validate();
  moe.validate();
  mtp.validate();
  if (model.lora) {
    require(moe.bias_update_rate == 0, "moe.bias_update_rate must be 0 with model.lora: an adapter does not hold the routers' biases");
    require(mtp.loss_weight == 0, "mtp.loss_weight must be 0 with model.lora: MTP modules take no adapters");
    const bool codes = model.lora->base == "fp8";
    require(!codes || precision.compute == "float32" || device != "cpu", "precision.compute must be float32 with model.lora.base = fp8: frozen weights are made of their codes "
                                                      "in float32; set one of the two to float32");
    require(!codes || precision.fp8 == "none" || device == "cpu",
            "precision.fp8 = " + precision.fp8 + " with model.lora.base = fp8 multiplies on a CPU in this version: set precision.fp8 to none, model.lora.base to float32, or device to cpu");
    require(!codes || precision.fp8 != "tensorwise", "model.lora.base = fp8 keeps weights in blocks of 128 x 128, which precision.fp8 = tensorwise "
                                                     "cannot multiply by; set it to blockwise or none");
    require(!codes || precision.fp8 == "none" || !precision.fp8_power_of_two_scales,
            "precision.fp8_power_of_two_scales must be false with model.lora.base = fp8: scales of frozen weights are no powers of two");
  }
  checkpoint.validate();
  evaluate.validate();
  log.validate();
  communication.validate();
  require(parallel.stages_per_rank >= 1, detail::concat("parallel.stages_per_rank = ", parallel.stages_per_rank, " must be at least 1"));
}

}  // namespace tessera::trainer
