#include "model/hf_folder.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "core/file.h"
#include "core/text.h"

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

void fill(const NamedWeight& weight, const SafetensorsFile& file, const std::string& name) {
  const at::Tensor stored = file.view(name);
  if (stored.sizes() != at::IntArrayRef(weight.shape))
    throw ConfigError(detail::concat(file.path().string(), ": tensor '", name, "' has shape ", stored.sizes(),
                                     " where config.json makes it ", at::IntArrayRef(weight.shape)));
  if (!at::isFloatingType(stored.scalar_type()) || c10::elementSize(stored.scalar_type()) < 2)
    throw ConfigError(file.path().string() + ": tensor '" + name + "' is of dtype " +
                      c10::toString(stored.scalar_type()) + "; supported are F32, BF16 and F16");
  weight.view().copy_(stored);
}

void load_into(const std::vector<NamedWeight>& weights, const SafetensorsFolder& source,
               const std::filesystem::path& folder) {
  std::set<std::string> used;
  std::vector<std::string> missing, extra;
  for (const auto& weight : weights) {
    const SafetensorsFile* file = source.find(weight.name);
    if (file == nullptr) {
      missing.push_back(weight.name);
      continue;
    }
    fill(weight, *file, weight.name);
    used.insert(weight.name);
  }
  for (const auto& name : source.names())
    if (used.count(name) == 0 && !is_ignored_buffer(name)) extra.push_back(name);
  if (!missing.empty())
    throw ConfigError(folder.string() + " lacks " + std::to_string(missing.size()) + " tensors that config.json asks for: " + some_names(missing));
  if (!extra.empty())
    throw ConfigError(folder.string() + " holds " + std::to_string(extra.size()) +
                      " tensors that config.json has no place for: " + some_names(extra));
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

void load_weights(CausalLM& model, const std::filesystem::path& folder) {
  const SafetensorsFolder source(folder, "model");
  std::vector<NamedWeight> weights = model.weights();
  if (model.config().tie_word_embeddings && source.find("lm_head.weight") != nullptr) {
    // Some writers store the tied head too; it must then be the embedding.
    const at::Tensor head = source.find("lm_head.weight")->view("lm_head.weight");
    const SafetensorsFile* embedding = source.find("model.embed_tokens.weight");
    if (embedding == nullptr || !head.equal(embedding->view("model.embed_tokens.weight")))
      throw ConfigError(folder.string() + ": lm_head.weight differs from the embedding although tie_word_embeddings is true; "
                        "set it to false in config.json");
    weights.push_back({"lm_head.weight", model.embedding(), 0, head.sizes().vec()});
  }
  load_into(weights, source, folder);
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

void save_weights(const CausalLM& model, const std::filesystem::path& folder, at::ScalarType dtype) {
  json config = model.config().raw;
  config.erase("torch_dtype");
  config["dtype"] = dtype_text(dtype);
  write_file_atomically(folder / "config.json", config.dump(2) + "\n");
  std::vector<checkpoint::TensorToWrite> tensors;
  for (const auto& weight : model.weights())
    tensors.push_back({weight.name, dtype, weight.shape, [weight] { return weight.view(); }});
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
  auto model = std::make_unique<CausalLM>(ModelConfig::load(base));
  load_weights(*model, base);
  if (is_adapter(folder)) {
    add_adapters(*model, read_adapter_config(folder), 0);
    load_into(model->adapter_weights(), SafetensorsFolder(folder, "adapter_model"), folder);
    merge_adapters(*model);
  }
  return model;
}

}  // namespace tessera::model
