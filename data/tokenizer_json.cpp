// Reads tokenizer.json and its companions into a Tokenizer.
#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "data/json.h"
#include "data/tokenizer_impl.h"
#include "data/unicode.h"

namespace tessera::data {

namespace {
using nlohmann::json;
constexpr int64_t kMaxVocab = 1 << 24;

template <typename... Parts>
[[noreturn]] void refuse(const std::string& name, const Parts&... parts) {
  throw ConfigError(detail::concat(name, ": ", parts...));
}

// The bytes a token stands for under GPT-2's byte-to-character table: printable Latin-1 stands for
// itself, the rest follows from U+0100 on. False when a character is outside of the table.
bool unmap_bytes(std::string_view token, std::string& out) {
  static const std::array<int16_t, 324> table = [] {
    std::array<int16_t, 324> t{};
    t.fill(-1);
    int next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
      t[static_cast<size_t>(printable ? b : next++)] = static_cast<int16_t>(b);
    }
    return t;
  }();
  out.clear();
  for (size_t i = 0; i < token.size();) {
    const CodePoint c = decode_utf8(token.data() + i);
    if (c.value >= table.size() || table[c.value] < 0) return false;
    out += static_cast<char>(table[c.value]);
    i += c.length;
  }
  return true;
}

const json& member(const json& object, const char* key) {
  static const json null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

bool flag(const json& object, const char* key, const std::string& name) {
  const json& value = member(object, key);
  if (value.is_null()) return false;
  if (!value.is_boolean()) refuse(name, "\"", key, "\" must be true or false");
  return value.get<bool>();
}

int32_t read_id(const json& value, const std::string& name, const std::string& what) {
  if (!value.is_number_integer() || value.get<int64_t>() < 0 || value.get<int64_t>() >= kMaxVocab) {
    refuse(name, "the id of ", what, " must be an integer in [0, ", kMaxVocab, ")");
  }
  return value.get<int32_t>();
}

AddedToken read_added_token(const json& item, const std::string& name) {
  if (!item.is_object() || !member(item, "content").is_string())
    refuse(name, "an added token needs \"content\"");
  AddedToken token;
  token.content = item["content"].get<std::string>();
  token.special = flag(item, "special", name);
  token.normalized = flag(item, "normalized", name);
  token.single_word = flag(item, "single_word", name);
  token.lstrip = flag(item, "lstrip", name);
  token.rstrip = flag(item, "rstrip", name);
  return token;
}

// Refuses what this BPE does not do.
void check_model(const json& model, const std::string& name) {
  const json& type = member(model, "type");
  if (!type.is_null() && type != "BPE") {
    refuse(name, "model type ", type.dump(), " is not supported; only byte-level BPE is");
  }
  const json& dropout = member(model, "dropout");
  if (!dropout.is_null() && !(dropout.is_number() && dropout.get<double>() == 0)) {
    refuse(name, "model.dropout is not supported; set it to null");
  }
  if (flag(model, "byte_fallback", name))
    refuse(name, "model.byte_fallback is not supported (a SentencePiece model)");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const json& value = member(model, affix);
    if (!value.is_null() && value != "") refuse(name, "model.", affix, " is not supported");
  }
}

std::pair<std::string, std::string> read_merge(const json& item, size_t index,
                                               const std::string& name) {
  if (item.is_string()) {
    const auto& text = item.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
      return {text.substr(0, space), text.substr(space + 1)};
    }
  } else if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
    return {item[0].get<std::string>(), item[1].get<std::string>()};
  }
  refuse(name, "merge ", index, " must be \"left right\" or [\"left\", \"right\"]");
}
}  // namespace

void Tokenizer::Impl::read(std::string_view text, const std::vector<AddedToken>& more) {
  const json root = parse_large_json(text, name);
  if (!root.is_object() || !member(root, "model").is_object())
    refuse(name, "no \"model\": not a tokenizer.json");
  const json& model = root["model"];
  check_model(model, name);
  const json& decoder = member(root, "decoder");
  if (!decoder.is_null() && (!decoder.is_object() || member(decoder, "type") != "ByteLevel")) {
    refuse(name, "decoder ", decoder.is_object() ? member(decoder, "type").dump() : decoder.dump(),
           " is not supported; only ByteLevel is");
  }
  normalizer = Normalizer(member(root, "normalizer"), name);
  pre_tokenizer.emplace(member(root, "pre_tokenizer"), name);

  const json& vocab = member(model, "vocab");
  if (!vocab.is_object() || vocab.empty())
    refuse(name, "model.vocab must be an object of token: id");
  std::vector<std::string> spelled;
  std::vector<bool> used;
  const auto place = [&](const std::string& token, int32_t id) {
    const auto i = static_cast<size_t>(id);
    if (i >= spelled.size()) {
      spelled.resize(i + 1);
      used.resize(i + 1);
    }
    if (used[i]) refuse(name, "tokens \"", spelled[i], "\" and \"", token, "\" share id ", id);
    used[i] = true;
    spelled[i] = token;
    ids.emplace(token, id);
  };
  ids.reserve(vocab.size() * 2);
  for (const auto& [token, id] : vocab.items())
    place(token, read_id(id, name, "token \"" + token + "\""));

  std::vector<AddedToken> added;
  const json& added_list = member(root, "added_tokens");
  if (!added_list.is_null() && !added_list.is_array())
    refuse(name, "\"added_tokens\" must be a list");
  for (const json& item : added_list) {
    AddedToken token = read_added_token(item, name);
    token.id = read_id(member(item, "id"), name, "added token \"" + token.content + "\"");
    added.push_back(std::move(token));
  }
  for (const AddedToken& token : more) {
    const bool known = std::any_of(added.begin(), added.end(),
                                   [&](const auto& a) { return a.content == token.content; });
    if (!known) added.push_back(token);
  }
  std::vector<bool> is_added;
  for (const AddedToken& token : added) {
    const auto found = ids.find(token.content);
    if (found == ids.end()) {
      place(token.content, token.id);
    } else if (found->second != token.id) {
      refuse(name, "added token \"", token.content, "\" has id ", token.id,
             " but the vocabulary says ", found->second);
    }
    is_added.resize(std::max(is_added.size(), static_cast<size_t>(token.id) + 1));
    is_added[static_cast<size_t>(token.id)] = true;
  }
  is_added.resize(spelled.size());
  special.assign(spelled.size(), 0);
  for (const AddedToken& token : added) {
    special[static_cast<size_t>(token.id)] |= token.special ? 1 : 0;
    if (token.normalized) {
      normalized_added.add(token, normalizer.apply(token.content));
    } else {
      raw_added.add(token, token.content);
    }
  }

  std::array<int32_t, 256> byte_ids;
  byte_ids.fill(-1);
  Bpe::Options options;
  options.ignore_merges = flag(model, "ignore_merges", name);
  std::unordered_map<std::string, int32_t> words;
  std::string raw;
  byte_offsets.assign(1, 0);
  for (size_t id = 0; id < spelled.size(); ++id) {
    const bool mapped = unmap_bytes(spelled[id], raw);
    const auto in_vocab = used[id] && mapped && vocab.contains(spelled[id]);
    if (in_vocab && raw.size() == 1)
      byte_ids[static_cast<unsigned char>(raw[0])] = static_cast<int32_t>(id);
    if (in_vocab && options.ignore_merges) words.emplace(raw, static_cast<int32_t>(id));
    bytes += mapped ? raw : spelled[id];
    if (bytes.size() > UINT32_MAX) refuse(name, "the vocabulary is too large");
    byte_offsets.push_back(static_cast<uint32_t>(bytes.size()));
  }
  const bool all_bytes =
      std::none_of(byte_ids.begin(), byte_ids.end(), [](int32_t id) { return id < 0; });
  const json& unknown = member(model, "unk_token");
  if (!unknown.is_null() && !all_bytes) {
    if (!unknown.is_string() || !vocab.contains(unknown.get<std::string>())) {
      refuse(name, "model.unk_token ", unknown.dump(), " is not in the vocabulary");
    }
    if (flag(model, "fuse_unk", name))
      refuse(name, "model.fuse_unk with a vocabulary that lacks bytes is not supported");
    options.unknown_id = vocab[unknown.get<std::string>()].get<int32_t>();
  }
  bpe = Bpe(options, byte_ids, std::move(words));

  const json& merges = member(model, "merges");
  if (!merges.is_array()) refuse(name, "model.merges must be a list");
  bpe.reserve_merges(merges.size());
  uint32_t rank = 0;
  for (size_t i = 0; i < merges.size(); ++i) {
    if (merges[i].is_string() && merges[i].get_ref<const std::string&>().starts_with("#version"))
      continue;
    const auto [left, right] = read_merge(merges[i], i, name);
    const auto id_of = [&](const std::string& token) {
      const auto found = vocab.find(token);
      if (found == vocab.end())
        refuse(name, "merge ", i, " needs the token \"", token,
               "\", which is not in the vocabulary");
      return found->get<int32_t>();
    };
    bpe.add_merge(id_of(left), id_of(right), rank++, id_of(left + right));
  }
}

Tokenizer Tokenizer::from_json(std::string_view text, const std::string& name) {
  auto impl = std::make_unique<Impl>();
  impl->name = name;
  impl->read(text, {});
  impl->hash = hash_bytes(text);
  return Tokenizer(std::move(impl));
}

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
