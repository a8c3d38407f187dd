// Hugging Face model folders in and out: config.json, safetensors, and the tokenizer's files beside them.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "model/causal_lm.h"
#include "model/lora.h"

namespace tessera::model {

/// The folder's config.json, with as many MTP modules as its files hold: many are published without.
[[nodiscard]] ModelConfig load_config(const std::filesystem::path& folder);

/// Fills every parameter of `model` from the folder's safetensors (float32, bfloat16, float16, or FP8 in blocks, converted;
/// experts one by one or stacked). Each tensor of the folder must be used exactly once and each parameter filled; otherwise
/// ConfigError lists the names. Rotary buffers of old files are passed over, and copies of embedding and head in MTP modules
/// must be equal to the originals.
void load_weights(CausalLM& model, const std::filesystem::path& folder);
/// The same for the shards of this rank; together with those of the other ranks of `world` they use every tensor. Each rank
/// reads only its own. Collective.
void load_weights(const std::vector<CausalLM*>& shards, const std::filesystem::path& folder, parallel::Communicator& world);

/// Content hash of the folder's weights, for checkpoints that store an adapter only.
[[nodiscard]] std::string hash_weights(const std::filesystem::path& folder);

/// Copies what goes with the weights from folder to folder: config.json, generation_config.json, tokenizer, template.
void copy_companions(const std::filesystem::path& from, const std::filesystem::path& to);

/// In what weights are written. Correction biases are always float32.
struct WeightFormat {
  at::ScalarType dtype = at::kFloat;
  bool fp8_blocks = false;          // projections in FP8 with scales, the rest in dtype
  std::filesystem::path like = {};  // a model folder: each of its tensors as it is stored there, the others in dtype
};

/// A weight's values, asked for when it is written and let go afterwards.
using ValueSource = std::function<at::Tensor(const NamedWeight& weight)>;

/// Writes config.json and the weights into `folder`, beside companions already there. One tensor is held at a time beside
/// what `values` comes from: the model, unless given.
void save_weights(const CausalLM& model, const std::filesystem::path& folder, const WeightFormat& format, const ValueSource& values = &NamedWeight::values);
inline void save_weights(const CausalLM& model, const std::filesystem::path& folder, at::ScalarType dtype) {
  save_weights(model, folder, WeightFormat{.dtype = dtype});
}

/// The dtype in which the folder stores its weights.
[[nodiscard]] at::ScalarType stored_dtype(const std::filesystem::path& folder);

/// Writes a PEFT adapter folder: adapter_config.json and adapter_model.safetensors.
void save_adapter(const CausalLM& model, const LoraConfig& lora, const std::string& base_model,
                  const std::filesystem::path& folder);

/// Loads a model for inference: a model folder, or a PEFT adapter folder whose base is merged in.
[[nodiscard]] std::unique_ptr<CausalLM> load_model(const std::filesystem::path& folder);

/// The folder that holds config and tokenizer for `folder`: itself, or the base of an adapter.
[[nodiscard]] std::filesystem::path base_folder(const std::filesystem::path& folder);

}  // namespace tessera::model
