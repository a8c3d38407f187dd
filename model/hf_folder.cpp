#include "model/hf_folder.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/text.h"
#include "kernels/fp8/block_matrix.h"
#include "model/fp8_blocks.h"

namespace tessera::model {

namespace {

using checkpoint::SafetensorsFile;
using checkpoint::SafetensorsFolder;
using nlohmann::json;

/// Buffers of old files that hold nothing a model needs.
bool is_ignored_buffer(const std::string& name) {
  const std::string suffix = "rotary_emb.inv_freq";
  return name.size() >= suffix.size() && name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0;
}

std::string some_names(const std::vector<std::string>& names) {
  constexpr size_t kShown = 8;
  std::vector<std::string> shown(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(std::min(kShown, names.size())));
  std::string text = join(shown);
  if (names.size() > kShown) text += detail::concat(" and ", names.size() - kShown, " more");
  return text;
}

std::string scale_name(const std::string& weight) { return weight + "_scale_inv"; }

/// An FP8 tensor with its scales, whose name is added to `used`; nothing if it is none.
std::optional<kernels::fp8::Quantized> find_codes(const SafetensorsFolder& source, const std::string& name, const BlockQuantization& block,
                                                  std::set<std::string>& used) {
  const SafetensorsFile& file = *source.find(name);
  const at::Tensor stored = file.view(name);
  if (stored.scalar_type() != at::kFloat8_e4m3fn) return std::nullopt;
  const SafetensorsFile* scales = source.find(scale_name(name));
  if (scales == nullptr || block.rows == 0 || stored.dim() != 2)
    throw ConfigError(file.path().string() + ": tensor '" + name + "' is FP8; it needs two dimensions, '" + scale_name(name) +
                      "' and quantization_config.weight_block_size in config.json");
  used.insert({name, scale_name(name)});
  kernels::fp8::Quantized found{stored, scales->view(scale_name(name))};
  check_scales(found, block, name);
  return found;
}

/// A tensor in float32 or as stored; FP8 is multiplied by its scales.
at::Tensor read_tensor(const SafetensorsFolder& source, const std::string& name, const BlockQuantization& block, std::set<std::string>& used) {
  if (const auto codes = find_codes(source, name, block, used)) return dequantize(*codes, block, name);
  const SafetensorsFile& file = *source.find(name);
  const at::Tensor stored = file.view(name);
  used.insert(name);
  if (!at::isFloatingType(stored.scalar_type()) || c10::elementSize(stored.scalar_type()) < 2)
    throw ConfigError(file.path().string() + ": tensor '" + name + "' is of dtype " + c10::toString(stored.scalar_type()) +
                      "; supported are F32, BF16, F16 and FP8 in blocks");
  return stored;
}

/// Fills named weights from a folder and keeps account of its tensors.
class Loader final {
 public:
  Loader(const SafetensorsFolder& source, const std::filesystem::path& folder, const BlockQuantization& block)
      : source_(source), folder_(folder), block_(block) {}

  /// Of which matrices what is kept as codes is stacked.
  void expect(const std::vector<NamedWeight>& weights) {
    for (const auto& weight : weights)
      if (weight.parameter->codes) matrices_[weight.parameter.get()].push_back(weight);
  }

  bool fill_if_there(const NamedWeight& weight) {
    const SafetensorsFile* file = source_.find(weight.name);
    if (file == nullptr) return false;
    std::vector<int64_t> whole = weight.shape;
    if (weight.file_rows > 0) whole[0] = weight.file_rows;
    if (file->view(weight.name).sizes() != at::IntArrayRef(whole))
      throw ConfigError(detail::concat(file->path().string(), ": tensor '", weight.name, "' has shape ", file->view(weight.name).sizes(),
                                       " where config.json makes it ", at::IntArrayRef(whole)));
    if (weight.parameter->codes) {
      put_codes(weight);
    } else {
      weight.view().copy_(read_tensor(source_, weight.name, block_, used_).narrow(0, weight.file_row_begin, weight.shape[0]));
    }
    file->release(weight.name);  // memory stays that of the model and one tensor
    return true;
  }

  void fill(const NamedWeight& weight) {
    if (!fill_if_there(weight)) missing_.push_back(weight.name);
  }

  /// A second copy of a weight that is already filled.
  void check_copy(const std::string& name, const at::Tensor& original, const std::string& remedy) {
    if (source_.find(name) == nullptr) return;
    if (!read_tensor(source_, name, block_, used_).to(at::kFloat).equal(original))
      throw ConfigError(folder_.string() + ": " + name + " differs from " + remedy);
  }

  /// Collective over `world`: what no rank has used is too much.
  void finish(parallel::Communicator& world) const {
    const auto names = source_.names();
    at::Tensor used = at::zeros({static_cast<int64_t>(names.size())}, at::kByte);
    for (size_t i = 0; i < names.size(); ++i) used.data_ptr<uint8_t>()[i] = used_.count(names[i]) > 0 || is_ignored_buffer(names[i]);
    if (!names.empty()) world.all_reduce(used, parallel::ReduceOp::kMax)->wait();
    std::vector<std::string> extra;
    for (size_t i = 0; i < names.size(); ++i)
      if (used.const_data_ptr<uint8_t>()[i] == 0) extra.push_back(names[i]);
    if (!missing_.empty())
      throw ConfigError(folder_.string() + " lacks " + std::to_string(missing_.size()) + " tensors that config.json asks for: " + some_names(missing_));
    if (!extra.empty())
      throw ConfigError(folder_.string() + " holds " + std::to_string(extra.size()) + " tensors that config.json has no place for: " + some_names(extra));
  }

 private:
  /// Codes as they are in the file, or made here, matrix by matrix.
  void put_codes(const NamedWeight& weight) {
    kernels::fp8::BlockMatrix& codes = *weight.parameter->codes;
    const auto tile = [](const BlockQuantization& block) { return kernels::fp8::Tile{block.rows, block.columns}; };
    if (const auto stored = find_codes(source_, weight.name, block_, used_)) return codes.put(weight.row_begin, *stored, tile(block_));
    const at::Tensor values = read_tensor(source_, weight.name, block_, used_).narrow(0, weight.file_row_begin, weight.shape[0]).reshape({-1, codes.columns()});
    for (const NamedWeight& matrix : matrices_.at(weight.parameter.get())) {
      const int64_t row = matrix.row_begin - weight.row_begin;
      if (row < 0 || row >= values.size(0)) continue;
      codes.put(matrix.row_begin, quantize(values.narrow(0, row, matrix.shape[0]).to(at::kFloat), kFp8Block), tile(kFp8Block));
    }
  }

  const SafetensorsFolder& source_;
  const std::filesystem::path& folder_;
  BlockQuantization block_;
  std::map<const kernels::Parameter*, std::vector<NamedWeight>> matrices_;  // of those that are kept as codes
  std::set<std::string> used_;
  std::vector<std::string> missing_;
};

std::string mtp_prefix(const ModelConfig& config, int64_t module) {
  return "model.layers." + std::to_string(config.num_hidden_layers + module) + ".";
}

json read_json(const std::filesystem::path& path) {
  const json parsed = json::parse(read_text_file(path), nullptr, false);
  if (parsed.is_discarded() || !parsed.is_object()) throw ConfigError(path.string() + ": not a JSON object");
  return parsed;
}

bool is_adapter(const std::filesystem::path& folder) { return std::filesystem::exists(folder / "adapter_config.json"); }

LoraConfig read_adapter_config(const std::filesystem::path& folder) {
  const auto path = folder / "adapter_config.json";
  const json object = read_json(path);
  if (!object.contains("peft_type") || object["peft_type"] != "LORA") throw ConfigError(path.string() + ": 'peft_type' must be LORA");
  for (const char* key : {"use_dora", "use_rslora", "lora_bias"})
    if (object.contains(key) && !object[key].is_null() && object[key] != false) throw ConfigError(path.string() + ": '" + key + "' is not supported");
  for (const char* key : {"rank_pattern", "alpha_pattern", "modules_to_save"})
    if (object.contains(key) && !object[key].empty()) throw ConfigError(path.string() + ": '" + std::string(key) + "' is not supported");
  LoraConfig lora;
  try {
    lora.r = object.at("r").get<int64_t>();
    lora.alpha = object.at("lora_alpha").get<double>();
    lora.target_modules = object.at("target_modules").get<std::vector<std::string>>();
  } catch (const json::exception& error) {
    throw ConfigError(path.string() + ": r, lora_alpha and target_modules (a list of names) are needed: " + error.what());
  }
  lora.validate();
  return lora;
}

std::string dtype_text(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat: return "float32";
    case at::kBFloat16: return "bfloat16";
    case at::kHalf: return "float16";
    default: throw ConfigError("weights can be written as float32, bfloat16 or float16");
  }
}

}  // namespace

ModelConfig load_config(const std::filesystem::path& folder) {
  ModelConfig config = ModelConfig::load(folder);
  const SafetensorsFolder source(folder, "model");
  int64_t found = 0;
  while (source.find(mtp_prefix(config, found) + "eh_proj.weight") != nullptr) ++found;
  if (found < config.num_mtp_modules)
    log::info(folder.string(), ": config.json has ", config.num_mtp_modules, " MTP modules, the files ", found);
  config.num_mtp_modules = found;
  return config;
}

namespace {

void fill_model(CausalLM& model, Loader& loader) {
  const ModelConfig& config = model.config();
  std::set<const kernels::Parameter*> stacked;
  loader.expect(model.weights());
  for (const auto& stack : model.stacks())
    if (loader.fill_if_there(stack)) stacked.insert(stack.parameter.get());
  for (const auto& weight : model.weights())
    if (stacked.count(weight.parameter.get()) == 0) loader.fill(weight);
  if (model.embedding()) {
    const at::Tensor embedding = model.embedding()->value.detach();
    if (config.tie_word_embeddings)  // some writers store the tied head too; it must then be the embedding
      loader.check_copy("lm_head.weight", embedding, "the embedding although tie_word_embeddings is true; set it to false in config.json");
    for (int64_t m = 0; m < config.num_mtp_modules; ++m)
      loader.check_copy(mtp_prefix(config, m) + "embed_tokens.weight", embedding, "the main model's embedding, which MTP modules share");
  }
  if (!model.head()) return;
  for (int64_t m = 0; m < config.num_mtp_modules; ++m)
    loader.check_copy(mtp_prefix(config, m) + "shared_head.head.weight", model.head()->value.detach(), "the main model's head, which MTP modules share");
}

}  // namespace

void load_weights(CausalLM& model, const std::filesystem::path& folder) {
  load_weights({&model}, folder, *parallel::make_self_communicator());
}

void load_weights(const std::vector<CausalLM*>& shards, const std::filesystem::path& folder, parallel::Communicator& world) {
  const SafetensorsFolder source(folder, "model");
  Loader loader(source, folder, shards.front()->config().quantization);
  for (CausalLM* shard : shards) fill_model(*shard, loader);
  loader.finish(world);
}

std::string hash_weights(const std::filesystem::path& folder) { return SafetensorsFolder(folder, "model").hash(); }

void copy_companions(const std::filesystem::path& from, const std::filesystem::path& to) {
  for (const char* name : {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
                           "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
                           "chat_template.jinja", "LICENSE"}) {
    if (std::filesystem::exists(from / name)) write_file_atomically(to / name, read_text_file(from / name));
  }
  if (std::filesystem::exists(to / "chat_template.jinja") || !std::filesystem::exists(to / "tokenizer_config.json")) return;
  const json tokenizer = read_json(to / "tokenizer_config.json");
  if (tokenizer.contains("chat_template") && tokenizer["chat_template"].is_string())
    write_file_atomically(to / "chat_template.jinja", tokenizer["chat_template"].get<std::string>());
}

namespace {

using Tensors = std::vector<checkpoint::TensorToWrite>;

/// The two tensors of an FP8 weight. They are made one after the other, and quantised once for each.
void add_fp8(const NamedWeight& weight, const BlockQuantization& block, const at::Tensor& before, const ValueSource& values, Tensors& tensors) {
  const std::vector<int64_t> blocks = {(weight.shape[0] + block.rows - 1) / block.rows, (weight.shape[1] + block.columns - 1) / block.columns};
  tensors.push_back({weight.name, at::kFloat8_e4m3fn, weight.shape, [=] { return quantize(values(weight), block, before).codes; }});
  tensors.push_back({scale_name(weight.name), at::kFloat, blocks, [=] { return quantize(values(weight), block, before).scales; }});
}

json config_to_write(const ModelConfig& config, const WeightFormat& format, bool fp8) {
  json object = config.raw;
  object.erase("torch_dtype");
  object["dtype"] = dtype_text(format.dtype);
  object.erase("quantization_config");
  if (!fp8) return object;
  const BlockQuantization block = format.fp8_blocks ? kFp8Block : config.quantization;
  object["quantization_config"] = {{"quant_method", "fp8"}, {"fmt", "e4m3"}, {"activation_scheme", "dynamic"},
                                   {"weight_block_size", {block.rows, block.columns}}};
  return object;
}

/// Embedding and head, which published MTP modules hold once more.
void add_mtp_copies(const CausalLM& model, const std::vector<NamedWeight>& weights, const WeightFormat& format, const SafetensorsFolder* like,
                    const ValueSource& values, Tensors& tensors) {
  for (int64_t m = 0; m < model.config().num_mtp_modules; ++m) {
    const auto add = [&](const std::string& name, const kernels::ParameterPtr& parameter) {
      const SafetensorsFile* file = like == nullptr ? nullptr : like->find(mtp_prefix(model.config(), m) + name);
      if (like != nullptr && file == nullptr) return;
      const at::ScalarType dtype = file == nullptr ? format.dtype : file->view(mtp_prefix(model.config(), m) + name).scalar_type();
      const auto original = std::find_if(weights.begin(), weights.end(), [&](const NamedWeight& weight) { return weight.parameter == parameter; });
      tensors.push_back({mtp_prefix(model.config(), m) + name, dtype, original->shape, [values, weight = *original] { return values(weight); }});
    };
    add("embed_tokens.weight", model.embedding());
    add("shared_head.head.weight", model.head());
  }
}

}  // namespace

void save_weights(const CausalLM& model, const std::filesystem::path& folder, const WeightFormat& format, const ValueSource& values) {
  std::unique_ptr<SafetensorsFolder> like;
  if (!format.like.empty()) like = std::make_unique<SafetensorsFolder>(format.like, "model");
  Tensors tensors;
  bool fp8 = format.fp8_blocks;
  const auto weights = model.weights();
  for (const auto& weight : weights) {
    const SafetensorsFile* file = like == nullptr ? nullptr : like->find(weight.name);
    at::ScalarType dtype = file == nullptr ? format.dtype : file->header().tensors.at(weight.name).dtype;
    if (format.fp8_blocks && weight.projection) {
      add_fp8(weight, kFp8Block, {}, values, tensors);
    } else if (dtype == at::kFloat8_e4m3fn) {
      const auto* scales = like->find(scale_name(weight.name));
      add_fp8(weight, model.config().quantization, scales->view(scale_name(weight.name)), values, tensors);
      fp8 = true;
    } else {
      if (weight.buffer && file == nullptr) dtype = at::kFloat;
      tensors.push_back({weight.name, dtype, weight.shape, [weight, values] { return values(weight); }});
    }
  }
  add_mtp_copies(model, weights, format, like.get(), values, tensors);
  write_file_atomically(folder / "config.json", config_to_write(model.config(), format, fp8).dump(2) + "\n");
  checkpoint::write_safetensors_folder(folder, "model", tensors);
}

at::ScalarType stored_dtype(const std::filesystem::path& folder) {
  const SafetensorsFolder source(folder, "model");
  std::map<at::ScalarType, int64_t> elements;
  for (const auto& name : source.names()) {
    const auto& info = source.find(name)->header().tensors.at(name);
    elements[info.dtype] += static_cast<int64_t>(info.end - info.begin) / static_cast<int64_t>(c10::elementSize(info.dtype));
  }
  if (elements.empty()) throw ConfigError(folder.string() + " holds no tensors");
  return std::max_element(elements.begin(), elements.end(), [](const auto& a, const auto& b) { return a.second < b.second; })
      ->first;
}

void save_adapter(const CausalLM& model, const LoraConfig& lora, const std::string& base_model,
                  const std::filesystem::path& folder) {
  const json config = {{"peft_type", "LORA"}, {"task_type", "CAUSAL_LM"}, {"base_model_name_or_path", base_model},
                       {"r", lora.r}, {"lora_alpha", lora.alpha}, {"lora_dropout", lora.dropout},
                       {"target_modules", lora.target_modules}, {"bias", "none"}, {"fan_in_fan_out", false},
                       {"inference_mode", true}, {"modules_to_save", nullptr}, {"init_lora_weights", true}};
  write_file_atomically(folder / "adapter_config.json", config.dump(2) + "\n");
  std::vector<checkpoint::TensorToWrite> tensors;
  for (const auto& weight : model.adapter_weights())
    tensors.push_back({weight.name, at::kFloat, weight.shape, [weight] { return weight.view(); }});
  checkpoint::write_safetensors_folder(folder, "adapter_model", tensors);
}

std::filesystem::path base_folder(const std::filesystem::path& folder) {
  if (!is_adapter(folder)) return folder;
  const json config = read_json(folder / "adapter_config.json");
  if (!config.contains("base_model_name_or_path") || !config["base_model_name_or_path"].is_string())
    throw ConfigError((folder / "adapter_config.json").string() + ": 'base_model_name_or_path' is missing");
  std::filesystem::path base = config["base_model_name_or_path"].get<std::string>();
  if (!std::filesystem::exists(base / "config.json"))
    throw ConfigError((folder / "adapter_config.json").string() + ": the base model folder " + base.string() +
                      " does not exist; nothing is downloaded: put it there or change base_model_name_or_path");
  return base;
}

std::unique_ptr<CausalLM> load_model(const std::filesystem::path& folder) {
  const auto base = base_folder(folder);
  auto model = std::make_unique<CausalLM>(load_config(base));
  load_weights(*model, base);
  if (is_adapter(folder)) {
    const LoraConfig lora = read_adapter_config(folder);
    check_targets(add_adapters(*model, lora, 0), lora);
    const SafetensorsFolder source(folder, "adapter_model");
    Loader loader(source, folder, {});
    for (const auto& weight : model->adapter_weights()) loader.fill(weight);
    loader.finish(*parallel::make_self_communicator());
    merge_adapters(*model);
  }
  return model;
}

}  // namespace tessera::model
