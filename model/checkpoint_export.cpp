#include "model/checkpoint_export.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <optional>

#include "checkpoint/manifest.h"
#include "checkpoint/reader.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "model/hf_folder.h"
#include "model/lora.h"

namespace tessera::model {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// The newest whole checkpoint when a run's folder is given.
fs::path checkpoint_folder(const fs::path& given) {
  if (fs::exists(given / "manifest.json")) return given;
  for (const auto& folder : checkpoint::list_checkpoints(given / "checkpoints")) {
    try {
      (void)checkpoint::read_and_verify(folder);
      return folder;
    } catch (const CheckpointError& error) {
      log::warn(error.what(), "; trying the checkpoint before it");
    }
  }
  throw ConfigError(given.string() + " is neither a checkpoint, nor a run with one, nor a model folder");
}

/// What the options ask for; `automatic` is the dtype, and `like` the folder to be like, of --dtype auto.
WeightFormat parse_format(const ExportOptions& options, at::ScalarType automatic, const fs::path& like) {
  WeightFormat format;
  format.fp8_blocks = options.weights == "fp8-blockwise";
  if (options.dtype == "auto") {
    format.dtype = format.fp8_blocks || automatic == at::kFloat8_e4m3fn ? at::kBFloat16 : automatic;
    if (!format.fp8_blocks) format.like = like;
  } else if (options.dtype == "bfloat16") {
    format.dtype = at::kBFloat16;
  } else if (options.dtype != "float32") {
    throw ConfigError("--dtype " + options.dtype + " is not known; use auto, float32 or bfloat16");
  }
  return format;
}

at::ScalarType config_dtype(const json& config) {
  const json name = config.contains("dtype") ? config["dtype"] : config.value("torch_dtype", json("float32"));
  return name == "bfloat16" ? at::kBFloat16 : name == "float16" ? at::kHalf : at::kFloat;
}

/// LoRA's settings as the recipe in the checkpoint has them, if any.
std::optional<LoraConfig> lora_of(const json& state) {
  const auto recipe = state.at("recipe").get<std::map<std::string, std::string>>();
  if (recipe.count("model.lora.r") == 0) return std::nullopt;
  LoraConfig lora;
  lora.r = std::stoll(recipe.at("model.lora.r"));
  lora.alpha = std::stod(recipe.at("model.lora.alpha"));
  if (recipe.count("model.lora.base") > 0) lora.base = json::parse(recipe.at("model.lora.base")).get<std::string>();  // absent in older ones
  lora.target_modules = json::parse(recipe.at("model.lora.target_modules")).get<std::vector<std::string>>();
  return lora;
}

void write_model(CausalLM& model, const fs::path& companions, const fs::path& output, const ExportOptions& options,
                 at::ScalarType automatic, const fs::path& like = {}, const ValueSource& values = &NamedWeight::values) {
  make_directories(output);
  copy_companions(companions, output);
  save_weights(model, output, parse_format(options, automatic, like), values);
}

void export_model_folder(const fs::path& folder, const fs::path& output, const ExportOptions& options) {
  const auto base = base_folder(folder);
  auto model = load_model(folder);
  write_model(*model, base, output, options, stored_dtype(base), base);
}

void export_checkpoint(const fs::path& folder, const fs::path& output, const ExportOptions& options) {
  checkpoint::CheckpointReader reader(folder, checkpoint::read_and_verify(folder));
  const json& state = reader.manifest().state;
  const fs::path companions = fs::absolute(folder).parent_path().parent_path() / "model";
  const auto lora = lora_of(state);
  ModelConfig config = ModelConfig::load(companions);
  config.num_mtp_modules = state.value("mtp_modules", int64_t{0});
  CausalLM model(std::move(config));
  if (!lora) {  // straight from the checkpoint: the model's own parameters are never touched and take no memory
    const auto weights = model.weights();
    for (const auto& weight : weights) reader.require("weight", weight.name);
    write_model(model, companions, output, options, config_dtype(model.config().raw), {}, [&](const NamedWeight& weight) {
      at::Tensor value = at::empty(weight.shape, at::kFloat);
      reader.read("weight", weight.name, 0, value.view({-1}));
      return value;
    });
    return;
  }
  const fs::path base = state.at("base_model").get<std::string>();
  if (options.merge_lora) {
    if (lora->base == "fp8") model.keep_frozen_in_fp8();
    load_weights(model, base);
    if (hash_weights(base) != state.at("base_hash").get<std::string>())
      throw ConfigError("the base model " + base.string() + " has changed since the adapter was trained on it");
  }
  check_targets(add_adapters(model, *lora, 0), *lora);
  for (const auto& weight : model.adapter_weights()) reader.read("weight", weight.name, 0, weight.view().view({-1}));
  if (options.merge_lora) {
    merge_adapters(model);
    write_model(model, companions, output, options, stored_dtype(base), base);
  } else {
    make_directories(output);
    save_adapter(model, *lora, base.string(), output);
  }
}

}  // namespace

void export_folder(const fs::path& given, const fs::path& output, const ExportOptions& options) {
  at::NoGradGuard no_grad;
  if (!fs::is_directory(given)) throw ConfigError(given.string() + " is no folder");
  if (fs::exists(output) && fs::equivalent(given, output)) throw ConfigError("--output is the folder to export itself");
  if (fs::exists(given / "manifest.json") || fs::exists(given / "checkpoints")) {
    export_checkpoint(checkpoint_folder(given), output, options);
  } else {
    export_model_folder(given, output, options);
  }
}

}  // namespace tessera::model
