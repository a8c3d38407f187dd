// Reads tokenizer.json into a Tokenizer.
#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/hash.h"
#include "data/json.h"
#include "data/tokenizer_impl.h"
#include "data/tokenizer_read.h"
#include "data/unicode.h"

namespace tessera::data {

namespace read {
constexpr int64_t kMaxVocab = 1 << 24;

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
}  // namespace read

using namespace read;

namespace {
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

// Refuses what this BPE does not do.
void check_model(const json& model, const std::string& name) {
  const json& type = member(model, "type");
  if (!type.is_null() && type != "BPE") {
    refuse(name, "model type ", type.dump(), " is not supported; only BPE is");
  }
  const json& dropout = member(model, "dropout");
  if (!dropout.is_null() && !(dropout.is_number() && dropout.get<double>() == 0)) {
    refuse(name, "model.dropout is not supported; set it to null");
  }
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

void Tokenizer::Impl::place(const std::string& token, int32_t id) {
  const auto i = static_cast<size_t>(id);
  if (i >= spelled_.size()) {
    spelled_.resize(i + 1);
    used_.resize(i + 1);
  }
  if (used_[i]) refuse(name, "tokens \"", spelled_[i], "\" and \"", token, "\" share id ", id);
  used_[i] = true;
  spelled_[i] = token;
  ids.emplace(token, id);
}

void Tokenizer::Impl::place_added(const std::vector<AddedToken>& added) {
  for (const AddedToken& token : added) {
    const auto found = ids.find(token.content);
    if (found == ids.end()) {
      place(token.content, token.id);
    } else if (found->second != token.id) {
      refuse(name, "added token \"", token.content, "\" has id ", token.id,
             " but the vocabulary says ", found->second);
    }
  }
  special.assign(spelled_.size(), 0);
  for (const AddedToken& token : added) {
    special[static_cast<size_t>(token.id)] |= token.special ? 1 : 0;
    if (token.normalized) {
      std::string& form = spelled_[static_cast<size_t>(token.id)];
      form = normalizer.apply(token.content);  // and so it is decoded
      normalized_added.add(token, form);
    } else {
      raw_added.add(token, token.content);
    }
  }
}

void Tokenizer::Impl::read_vocabulary(const json& root, const std::vector<AddedToken>& more) {
  const json& vocab = member(root["model"], "vocab");
  if (!vocab.is_object() || vocab.empty())
    refuse(name, "model.vocab must be an object of token: id");
  ids.reserve(vocab.size() * 2);
  for (const auto& [token, id] : vocab.items())
    place(token, read_id(id, name, "token \"" + token + "\""));
  std::vector<AddedToken> added;
  const json& list = member(root, "added_tokens");
  if (!list.is_null() && !list.is_array()) refuse(name, "\"added_tokens\" must be a list");
  for (const json& item : list) {
    AddedToken token = read_added_token(item, name);
    token.id = read_id(member(item, "id"), name, "added token \"" + token.content + "\"");
    added.push_back(std::move(token));
  }
  for (const AddedToken& token : more) {
    const bool known = std::any_of(added.begin(), added.end(),
                                   [&](const auto& a) { return a.content == token.content; });
    if (!known) added.push_back(token);
  }
  place_added(added);
}

namespace {
// The code point of a token of one character, else nothing.
std::optional<uint32_t> only_character(std::string_view token) {
  if (token.empty()) return std::nullopt;
  const CodePoint c = decode_utf8(token.data());
  return c.length == token.size() ? std::optional(c.value) : std::nullopt;
}

int32_t read_unknown(const json& model, const json& vocab, const std::string& name) {
  const json& unknown = member(model, "unk_token");
  if (unknown.is_null()) return -1;
  if (!unknown.is_string() || !vocab.contains(unknown.get<std::string>()))
    refuse(name, "model.unk_token ", unknown.dump(), " is not in the vocabulary");
  return vocab[unknown.get<std::string>()].get<int32_t>();
}
}  // namespace

// The tokens' bytes, and the ids that merges begin with.
void Tokenizer::Impl::read_symbols(const json& model) {
  const json& vocab = model["vocab"];
  const bool fallback = flag(model, "byte_fallback", name);
  Bpe::Symbols symbols;
  symbols.bytes.fill(-1);
  symbols.by_character = !pre_tokenizer->byte_level();
  symbols.ignore_merges = flag(model, "ignore_merges", name);
  symbols.fuse_unknown = flag(model, "fuse_unk", name);
  std::string raw;
  byte_offsets.assign(1, 0);
  for (size_t i = 0; i < spelled_.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    const bool mapped = !symbols.by_character && unmap_bytes(spelled_[i], raw);
    const std::string& stands_for = mapped ? raw : spelled_[i];
    bytes += stands_for;
    if (bytes.size() > UINT32_MAX) refuse(name, "the vocabulary is too large");
    byte_offsets.push_back(static_cast<uint32_t>(bytes.size()));
    const auto found = vocab.find(spelled_[i]);
    if (!used_[i] || found == vocab.end() || *found != id)
      continue;  // added tokens are no part of words
    if (symbols.ignore_merges && (mapped || symbols.by_character))
      symbols.words.emplace(stands_for, id);
    if (mapped && raw.size() == 1) symbols.bytes[static_cast<unsigned char>(raw[0])] = id;
    if (!symbols.by_character) continue;
    if (const auto character = only_character(spelled_[i]))
      symbols.characters.emplace(*character, id);
    const int byte = fallback && spelled_[i].starts_with("<0x") ? byte_of_token(spelled_[i]) : -1;
    if (byte >= 0) symbols.bytes[static_cast<size_t>(byte)] = id;
  }
  const bool all_bytes =
      std::find(symbols.bytes.begin(), symbols.bytes.end(), -1) == symbols.bytes.end();
  if (symbols.by_character || !all_bytes) symbols.unknown_id = read_unknown(model, vocab, name);
  if (!symbols.by_character && !all_bytes && fallback)
    refuse(name,
           "model.byte_fallback with ByteLevel and a vocabulary that lacks bytes is not supported");
  if (symbols.by_character && !fallback && symbols.unknown_id < 0) {
    refuse(name,
           "the pre_tokenizer has no ByteLevel step, and the model neither byte_fallback nor an "
           "unk_token: characters "
           "outside of the vocabulary would be lost");
  }
  bpe = Bpe(std::move(symbols));
}

void Tokenizer::Impl::read_merges(const json& model) {
  const json& merges = member(model, "merges");
  if (!merges.is_array()) refuse(name, "model.merges must be a list");
  bpe.reserve_merges(merges.size());
  const json& vocab = model["vocab"];
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

void Tokenizer::Impl::read(std::string_view text, const std::vector<AddedToken>& more) {
  const json root = parse_large_json(text, name);
  if (!root.is_object() || !member(root, "model").is_object())
    refuse(name, "no \"model\": not a tokenizer.json");
  const json& model = root["model"];
  check_model(model, name);
  normalizer = Normalizer(member(root, "normalizer"), name);
  pre_tokenizer.emplace(member(root, "pre_tokenizer"), name);
  affixes = read_post_processor(member(root, "post_processor"), name);
  read_vocabulary(root, more);
  for (const auto* side : {&affixes.before, &affixes.behind})
    for (const int32_t id : *side)
      if (static_cast<size_t>(id) >= used_.size() || !used_[static_cast<size_t>(id)])
        refuse(name, "post_processor: no token has the id ", id);
  read_symbols(model);
  read_merges(model);
  read_decoder(root);
  spelled_ = {};
  used_ = {};
}

void Tokenizer::Impl::read_decoder(const json& root) {
  const json& spec = member(root, "decoder");
  if (!pre_tokenizer->byte_level()) {
    decoder = Decoder(spec, name);
  } else if (!spec.is_null() && (!spec.is_object() || member(spec, "type") != "ByteLevel")) {
    refuse(name, "decoder ", spec.is_object() ? member(spec, "type").dump() : spec.dump(),
           " is not supported for a byte-level model; only ByteLevel is");
  }
}

Tokenizer Tokenizer::from_json(std::string_view text, const std::string& name) {
  auto impl = std::make_unique<Impl>();
  impl->name = name;
  impl->read(text, {});
  impl->hash = hash_bytes(text);
  return Tokenizer(std::move(impl));
}

}  // namespace tessera::data
