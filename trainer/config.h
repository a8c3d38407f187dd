// What a training run is told: the parts of a recipe that the trainer reads.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include <c10/core/ScalarType.h>

#include "data/dataset.h"
#include "kernels/fp8/recipe.h"
#include "model/config.h"
#include "model/lora_config.h"
#include "moe/dispatcher.h"
#include "parallel/mesh.h"

namespace tessera::trainer {

/// Where the weights come from: a Hugging Face folder, or a config with fresh weights and a tokenizer's folder.
struct ModelSource {
  std::string path;
  nlohmann::json config;  // null unless fresh weights are wanted
  std::string tokenizer;
  std::optional<model::LoraConfig> lora;  // absent: full fine-tuning

  [[nodiscard]] std::string tokenizer_folder() const { return tokenizer.empty() ? path : tokenizer; }
  /// The folder's, or the section. Throws ConfigError.
  [[nodiscard]] model::ModelConfig load_config() const;
  void validate() const;
};

struct PrecisionConfig {
  std::string compute = "float32";
  std::string fp8 = "none";  // or the name of a recipe in kernels/fp8/recipe.h
  bool fp8_power_of_two_scales = false;
  std::string dispatch = "float32";  // of tokens on their way to experts: float32 | bfloat16 | fp8
  std::string combine = "float32";   // and back: float32 | bfloat16
  /// Absent: products in float32.
  [[nodiscard]] std::optional<kernels::fp8::Recipe> recipe() const;
  [[nodiscard]] moe::Wire wire() const;
  /// The dtype that passes take weights in.
  [[nodiscard]] at::ScalarType values() const { return compute == "bfloat16" ? at::kBFloat16 : at::kFloat; }
  void validate() const;
};

struct OptimizerConfig {
  std::string name = "adamw";
  double lr = 1e-4;
  std::vector<double> betas = {0.9, 0.95};
  double eps = 1e-8;
  double weight_decay = 0.1;
  double grad_clip = 1.0;  // global norm; 0 = no clipping
  std::string moments = "float32";         // or bfloat16
  std::string moment_rounding = "nearest";  // or stochastic, of bfloat16
  void validate() const;
};

struct LrScheduleConfig {
  std::string name = "cosine";  // constant | linear | cosine | wsd
  int64_t warmup_steps = 0;
  double final_lr = 0.1;     // share of lr at the end
  int64_t decay_steps = 0;   // wsd: length of the last phase; 0 = a tenth of all steps
  void validate() const;
};

/// Grows the step linearly from `from` sequences to train.sequences_per_step over `steps` steps.
struct BatchRampConfig {
  int64_t from = 0;
  int64_t steps = 0;  // 0 = no ramp
};

struct StepConfig {
  int64_t steps = 0;
  int64_t sequences_per_step = 8;
  BatchRampConfig batch_ramp;
  int64_t sequences_per_microbatch = 1;
  std::string recompute = "none";  // none | selective | full; norms and SwiGLU always are
  int64_t max_nonfinite_steps = 10;  // skipped updates in a row before the run gives up
  void validate() const;
};

/// What moves routers besides the main loss: nothing, unless asked.
struct MoeTrainingConfig {
  double bias_update_rate = 0;       // the correction bias of each expert, each step
  double sequence_balance_loss = 0;  // weight of the sequence-wise balance loss
  double z_loss = 0;                 // weight of the squared log-sum-exp of the router's logits
  void validate() const;
};

struct MtpTrainingConfig {
  double loss_weight = 0;  // of the MTP modules' mean loss; 0 leaves them as they are
  void validate() const;
};

struct CheckpointConfig {
  int64_t every = 50;
  int64_t keep = 2;
  bool background = false;  // training goes on while a copy is written
  void validate() const;
};

struct EvaluateConfig {
  int64_t every = 0;  // 0 = at the end only, if there is validation data
  void validate() const;
};

struct LogConfig {
  int64_t every = 1;
  bool tensorboard = true;
  bool communication = false;  // each rank's, each step
  void validate() const;
};

struct CommunicationConfig {
  double timeout_seconds = 600;
  void validate() const;
};

struct TrainerConfig {
  std::string name = "run";
  std::string task = "sft";  // pretrain | sft
  uint64_t seed = 0;
  std::string output;
  ModelSource model;
  data::DataConfig data;
  parallel::ParallelConfig parallel;
  PrecisionConfig precision;
  OptimizerConfig optimizer;
  LrScheduleConfig lr_schedule;
  StepConfig train;
  MoeTrainingConfig moe;
  MtpTrainingConfig mtp;
  CheckpointConfig checkpoint;
  EvaluateConfig evaluate;
  LogConfig log;
  CommunicationConfig communication;

  /// Throws ConfigError naming the key and what to set.
  void validate() const;
};

}  // namespace tessera::trainer
