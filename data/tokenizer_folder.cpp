// Reads a Hugging Face model folder into a Tokenizer: tokenizer.json and the files beside it.
#include <algorithm>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "data/json.h"
#include "data/tokenizer_impl.h"
#include "data/tokenizer_read.h"

namespace tessera::data {

using namespace read;

namespace {
json read_optional(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return json::object();
  json value = parse_large_json(read_text_file(path), path.string());
  if (!value.is_object()) refuse(path.string(), "must be a JSON object");
  return value;
}

// "eos_token": "<|im_end|>" or {"content": "<|im_end|>", ...}.
std::string special_token_name(const json& config, const char* key) {
  const json& value = member(config, key);
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && member(value, "content").is_string())
    return value["content"].get<std::string>();
  return "";
}

std::vector<int32_t> token_ids(const json& config, const char* key, const std::string& name) {
  std::vector<int32_t> out;
  const json& value = member(config, key);
  if (value.is_array()) {
    for (const json& item : value) out.push_back(read_id(item, name, key));
  } else if (!value.is_null()) {
    out.push_back(read_id(value, name, key));
  }
  return out;
}
}  // namespace

Tokenizer Tokenizer::load(const std::filesystem::path& folder) {
  const auto path = folder / "tokenizer.json";
  if (!std::filesystem::is_regular_file(path)) {
    throw ConfigError(
        detail::concat(path.string(),
                       ": no such file; model.path (or tokenizer) must be a Hugging Face "
                       "folder with a tokenizer.json"));
  }
  const std::string config_name = (folder / "tokenizer_config.json").string();
  const json config = read_optional(config_name);
  std::vector<AddedToken> more;
  if (const json& decoder = member(config, "added_tokens_decoder"); decoder.is_object()) {
    for (const auto& [key, item] : decoder.items()) {
      AddedToken token = read_added_token(item, config_name);
      const bool digits = !key.empty() && key.size() < 9 &&
                          key.find_first_not_of("0123456789") == std::string::npos;
      token.id = digits ? read_id(std::stoi(key), config_name, key) : -1;
      if (!digits) refuse(config_name, "added_tokens_decoder: \"", key, "\" is not an id");
      more.push_back(std::move(token));
    }
  }
  const std::string text = read_text_file(path);
  auto impl = std::make_unique<Impl>();
  impl->name = path.string();
  impl->read(text, more);

  for (const auto& [key, slot] :
       {std::pair("bos_token", &impl->bos), std::pair("eos_token", &impl->eos)}) {
    const std::string token = special_token_name(config, key);
    if (token.empty()) continue;
    const auto found = impl->ids.find(token);
    if (found == impl->ids.end())
      refuse(config_name, key, " \"", token, "\" is not in tokenizer.json");
    *slot = found->second;
  }
  if (impl->eos) impl->stops.push_back(*impl->eos);
  for (const char* file : {"generation_config.json", "config.json"}) {
    const std::string name = (folder / file).string();
    const json model_config = read_optional(name);
    const auto bos = token_ids(model_config, "bos_token_id", name);
    const auto eos = token_ids(model_config, "eos_token_id", name);
    if (!impl->bos && !bos.empty()) impl->bos = bos.front();
    if (!impl->eos && !eos.empty()) impl->eos = eos.front();
    for (const int32_t id : eos) {
      if (std::find(impl->stops.begin(), impl->stops.end(), id) == impl->stops.end())
        impl->stops.push_back(id);
    }
  }
  Hasher hasher;
  hasher.update(text);
  hasher.update(member(config, "added_tokens_decoder").dump());
  hasher.update(detail::concat(impl->bos.value_or(-1), " ", impl->eos.value_or(-1)));
  impl->hash = hasher.hex();
  return Tokenizer(std::move(impl));
}

}  // namespace tessera::data
