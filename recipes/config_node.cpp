#include "recipes/config_node.h"

#include <yaml-cpp/depthguard.h>
#include <yaml-cpp/yaml.h>

#include <cstdlib>

#include "core/error.h"
#include "core/file.h"
#include "data/unicode.h"

namespace tessera::recipes {

namespace {

constexpr int kMaxDepth = 16;
constexpr size_t kMaxKey = 128;  // YAML ends a key at 1024 characters, and an escaped one is six times as long
constexpr size_t kMaxNodes = 100'000;  // aliases can make a small file large

[[noreturn]] void fail(const std::string& where, const std::string& what) { throw ConfigError(where + ": " + what); }

std::string place(const YAML::Mark& mark, const std::string& name) {
  return mark.line < 0 ? name : name + ":" + std::to_string(mark.line + 1);
}

/// `!name` before a value says how to read it; dropping it would change what was written.
void refuse_tag(const YAML::Node& node, const std::string& where) {
  const std::string& tag = node.Tag();
  if (!tag.empty() && tag != "?" && tag != "!") fail(where, "the tag '" + tag + "' is not supported; put text that begins with ! in quotes");
}

ConfigNode convert(const YAML::Node& node, const std::string& name, const std::string& parent, int depth, size_t& nodes) {
  ConfigNode result;
  result.where = place(node.Mark(), name);
  if (depth > kMaxDepth || ++nodes > kMaxNodes) fail(result.where, "nested too deeply or too large for a recipe");
  refuse_tag(node, result.where);
  switch (node.Type()) {
    case YAML::NodeType::Scalar:
      result.kind = ConfigNode::Kind::kScalar;
      result.scalar = node.Scalar();
      if (!data::is_valid_utf8(result.scalar)) fail(result.where, "not UTF-8 text");
      result.quoted = node.Tag() == "!";
      break;
    case YAML::NodeType::Sequence:
      result.kind = ConfigNode::Kind::kList;
      for (const auto& item : node) result.items.push_back(convert(item, name, parent, depth + 1, nodes));
      break;
    case YAML::NodeType::Map:
      for (const auto& entry : node) {
        if (!entry.first.IsScalar()) fail(result.where, "a key must be a plain word");
        const std::string key = entry.first.Scalar();
        const std::string where = place(entry.first.Mark(), name);
        refuse_tag(entry.first, where);
        if (!data::is_valid_utf8(key)) fail(where, "not UTF-8 text");
        if (key.size() > kMaxKey) fail(where, detail::concat("a key is longer than ", kMaxKey, " characters"));
        if (const ConfigNode* first = result.find(key); first != nullptr)
          fail(where, "'" + key + "' is given twice (first at " + first->where + ")");
        if (!entry.second.IsDefined() || entry.second.IsNull()) fail(where, "'" + key + "' has no value; give one or leave the key out");
        ConfigNode value = convert(entry.second, name, key, depth + 1, nodes);
        value.where = where;
        result.entries.push_back({key, std::move(value)});
      }
      break;
    default:
      if (depth > 0) fail(result.where, "'" + parent + "' has an entry without a value");
      fail(name, "is empty; a recipe needs at least model, data and train");
  }
  return result;
}

ConfigNode* item_named(ConfigNode& list, const std::string& name) {
  for (auto& item : list.items)
    if (const ConfigNode* own = item.find("name"); own != nullptr && own->scalar == name) return &item;
  return nullptr;
}

bool merges_by_name(ConfigNode& base, const ConfigNode& over) {
  if (base.kind != ConfigNode::Kind::kList || over.kind != ConfigNode::Kind::kMap || over.entries.empty()) return false;
  bool named = !base.items.empty(), all = true;
  std::string names, missing;
  for (const auto& item : base.items) {
    named = named && item.find("name") != nullptr;
    if (named) names += (names.empty() ? "" : ", ") + item.find("name")->scalar;
  }
  for (const auto& [key, value] : over.entries) {
    if (item_named(base, key) != nullptr) continue;
    all = false;
    missing = key;
  }
  if (named && !all) fail(over.where, "there is none with the name " + missing + "; the names are " + names);
  return named;
}

ConfigNode read_file(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) throw ConfigError("recipe " + path.string() + " does not exist");
  return parse_config(read_text_file(path), path.string());
}

ConfigNode parse_override(const std::string& text) {
  const std::string where = "command line '" + text + "'";
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0)
    throw ConfigError("'" + text + "' is no override: write key=value, for instance optimizer.lr=1.0e-4");
  ConfigNode value = parse_config("value: " + text.substr(equals + 1), where).entries.at(0).value;
  const std::string keys = text.substr(0, equals);
  // Wrap the value from the innermost key outwards.
  size_t end = keys.size();
  while (true) {
    const size_t dot = end == 0 ? std::string::npos : keys.rfind('.', end - 1);
    const size_t begin = dot == std::string::npos ? 0 : dot + 1;
    ConfigNode wrapped;
    value.where = wrapped.where = where;
    wrapped.entries.push_back({keys.substr(begin, end - begin), std::move(value)});
    value = std::move(wrapped);
    if (dot == std::string::npos) return value;
    end = dot;
  }
}

}  // namespace

const ConfigNode* ConfigNode::find(std::string_view key) const {
  for (const auto& [name, node] : entries)
    if (name == key) return &node;
  return nullptr;
}

nlohmann::json ConfigNode::to_json() const {
  if (kind == Kind::kList) {
    auto list = nlohmann::json::array();
    for (const auto& item : items) list.push_back(item.to_json());
    return list;
  }
  if (kind == Kind::kMap) {
    auto map = nlohmann::json::object();
    for (const auto& [key, value] : entries) map[key] = value.to_json();
    return map;
  }
  if (!quoted) {
    const auto parsed = nlohmann::json::parse(scalar, nullptr, false);
    if (!parsed.is_discarded() && !parsed.is_structured()) return parsed;
    if (scalar == "~") return nullptr;
    char* end = nullptr;  // YAML numbers that are no JSON: 1.e-5, +3
    const double number = std::strtod(scalar.c_str(), &end);
    if (!scalar.empty() && *end == '\0') return number;
  }
  return scalar;
}

void merge(ConfigNode& base, const ConfigNode& over) {
  if (merges_by_name(base, over)) {
    for (const auto& [key, value] : over.entries) merge(*item_named(base, key), value);
    return;
  }
  if (base.kind != ConfigNode::Kind::kMap || over.kind != ConfigNode::Kind::kMap) {
    base = over;
    return;
  }
  base.where = over.where;
  for (const auto& [key, value] : over.entries) {
    bool found = false;
    for (auto& [name, node] : base.entries) {
      if (name != key) continue;
      merge(node, value);
      found = true;
    }
    if (!found) base.entries.push_back({key, value});
  }
}

ConfigNode parse_config(const std::string& text, const std::string& name) {
  YAML::Node node;
  try {
    node = YAML::Load(text);
  } catch (const YAML::DeepRecursion&) {
    fail(name, "nested too deeply or too large for a recipe");
  } catch (const YAML::Exception& error) {
    fail(place(error.mark, name), "not valid YAML: " + error.msg);
  }
  size_t nodes = 0;
  ConfigNode result = convert(node, name, "", 0, nodes);
  if (result.kind != ConfigNode::Kind::kMap) fail(result.where, "expected 'key: value' lines");
  return result;
}

ConfigNode load_config(const std::filesystem::path& path, const std::vector<std::string>& overrides) {
  ConfigNode config = read_file(path);
  if (const ConfigNode* base = config.find("base"); base != nullptr) {
    if (base->kind != ConfigNode::Kind::kScalar) fail(base->where, "base must name a recipe file");
    ConfigNode merged = read_file(path.parent_path() / base->scalar);
    if (merged.find("base") != nullptr) fail(base->where, "base recipe " + base->scalar + " has a base of its own; one level only");
    std::erase_if(config.entries, [](const auto& entry) { return entry.key == "base"; });
    merge(merged, config);
    config = std::move(merged);
  }
  for (const auto& text : overrides) merge(config, parse_override(text));
  return config;
}

}  // namespace tessera::recipes
