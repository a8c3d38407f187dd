#include "recipes/recipe.h"

#include <charconv>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/text.h"
#include "recipes/config_node.h"
#include "recipes/schema.h"

namespace tessera::recipes {

namespace {

// Sections of the recipe language that this version reads no further than to say so.
const std::set<std::string> kLaterSections = {"distill"};

/// Reads a struct from a map, and complains about keys nobody asked for.
class Reader {
 public:
  Reader(const ConfigNode& node, std::string path) : node_(node), path_(std::move(path)) {
    if (node.kind != ConfigNode::Kind::kMap) fail(node, path_, "must be a section of 'key: value' lines");
  }

  void field(const char* key, std::string& out) {
    if (const ConfigNode* value = scalar(key)) out = value->scalar;
  }
  void field(const char* key, bool& out) {
    const ConfigNode* value = scalar(key);
    if (value == nullptr) return;
    if (value->quoted || (value->scalar != "true" && value->scalar != "false"))
      fail(*value, name(key), "= " + value->scalar + " must be true or false");
    out = value->scalar == "true";
  }
  void field(const char* key, double& out) {
    if (const ConfigNode* value = scalar(key)) out = number<double>(*value, name(key), "a number");
  }
  void field(const char* key, int64_t& out) {
    if (const ConfigNode* value = scalar(key)) out = number<int64_t>(*value, name(key), "a whole number");
  }
  void field(const char* key, uint64_t& out) {
    if (const ConfigNode* value = scalar(key)) out = number<uint64_t>(*value, name(key), "a whole number, 0 or more");
  }
  void field(const char* key, std::vector<std::string>& out) {
    if (const ConfigNode* value = items(key)) {
      out.clear();
      for (const auto& item : value->items) {
        if (item.kind != ConfigNode::Kind::kScalar) fail(item, name(key), "must be a list of words");
        out.push_back(item.scalar);
      }
    }
  }
  void field(const char* key, std::vector<double>& out) {
    if (const ConfigNode* value = items(key)) {
      out.clear();
      for (const auto& item : value->items) {
        if (item.kind != ConfigNode::Kind::kScalar) fail(item, name(key), "must be a list of numbers");
        out.push_back(number<double>(item, name(key), "a list of numbers"));
      }
    }
  }
  void field(const char* key, nlohmann::json& out) {
    if (const ConfigNode* value = take(key)) {
      if (value->kind != ConfigNode::Kind::kMap) fail(*value, name(key), "must be a section of 'key: value' lines");
      out = value->to_json();
    }
  }
  template <typename T>
  void section(const char* key, T& out) {
    if (const ConfigNode* value = take(key)) read_struct(*value, name(key), out);
  }
  template <typename T>
  void optional_section(const char* key, std::optional<T>& out) {
    if (const ConfigNode* value = take(key)) read_struct(*value, name(key), out.emplace());
  }
  template <typename T>
  void list(const char* key, std::vector<T>& out) {
    if (const ConfigNode* value = items(key)) {
      out.clear();
      for (size_t i = 0; i < value->items.size(); ++i)
        read_struct(value->items[i], name(key) + "[" + std::to_string(i) + "]", out.emplace_back());
    }
  }

  void finish() const {
    const std::vector<std::string> known(known_.begin(), known_.end());
    for (const auto& [key, value] : node_.entries) {
      if (known_.count(key) > 0) continue;
      if (path_.empty() && kLaterSections.count(key) > 0) fail(value, key, "is not available in this version; leave the section out");
      const std::string near = nearest_name(key, known);
      fail(value, name(key), near.empty() ? "is not a known key; known here: " + join(known) : "is not a known key; did you mean '" + near + "'?");
    }
  }

  template <typename T>
  static void read_struct(const ConfigNode& node, const std::string& path, T& out) {
    Reader reader(node, path);
    describe(reader, out);
    reader.finish();
  }

 private:
  [[noreturn]] static void fail(const ConfigNode& node, const std::string& key, const std::string& what) {
    throw ConfigError(node.where + ": " + key + " " + what);
  }
  [[nodiscard]] std::string name(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }
  const ConfigNode* take(const char* key) {
    known_.insert(key);
    return node_.find(key);
  }
  const ConfigNode* scalar(const char* key) {
    const ConfigNode* value = take(key);
    if (value != nullptr && value->kind != ConfigNode::Kind::kScalar) fail(*value, name(key), "must be a single value");
    return value;
  }
  const ConfigNode* items(const char* key) {
    const ConfigNode* value = take(key);
    if (value != nullptr && value->kind != ConfigNode::Kind::kList) fail(*value, name(key), "must be a list");
    return value;
  }
  template <typename T>
  static T number(const ConfigNode& node, const std::string& key, const char* kind) {
    T result{};
    const char *begin = node.scalar.data(), *end = begin + node.scalar.size();
    const auto [stop, code] = std::from_chars(begin, end, result);
    bool good = !node.quoted && code == std::errc() && stop == end;
    if constexpr (std::is_floating_point_v<T>) good = good && std::isfinite(result);
    if (!good) fail(node, key, "= " + node.scalar + " must be " + kind);
    return result;
  }

  const ConfigNode& node_;
  std::string path_;
  std::set<std::string> known_;
};

/// Writes the resolved recipe as YAML and as flat keys.
class Writer {
 public:
  Writer(std::string& yaml, std::map<std::string, std::string>& keys, std::string path, int indent)
      : yaml_(yaml), keys_(keys), path_(std::move(path)), indent_(indent) {}

  void field(const char* key, const std::string& value) {
    if (!value.empty()) put(key, nlohmann::json(value).dump());
  }
  void field(const char* key, bool value) { put(key, value ? "true" : "false"); }
  void field(const char* key, double value) { put(key, nlohmann::json(value).dump()); }
  void field(const char* key, int64_t value) { put(key, std::to_string(value)); }
  void field(const char* key, uint64_t value) { put(key, std::to_string(value)); }
  void field(const char* key, const std::vector<std::string>& value) { put(key, nlohmann::json(value).dump()); }
  void field(const char* key, const std::vector<double>& value) { put(key, nlohmann::json(value).dump()); }
  void field(const char* key, const nlohmann::json& value) {
    if (!value.is_null()) put(key, value.dump());
  }
  template <typename T>
  void section(const char* key, T& value) {
    yaml_ += std::string(static_cast<size_t>(indent_), ' ') + key + ":\n";
    Writer inner(yaml_, keys_, name(key), indent_ + 2);
    describe(inner, value);
  }
  template <typename T>
  void optional_section(const char* key, std::optional<T>& value) {
    if (value) section(key, *value);
  }
  template <typename T>
  void list(const char* key, std::vector<T>& values) {
    if (values.empty()) return;
    yaml_ += std::string(static_cast<size_t>(indent_), ' ') + key + ":\n";
    for (size_t i = 0; i < values.size(); ++i) {
      yaml_ += std::string(static_cast<size_t>(indent_), ' ') + "  -\n";
      Writer inner(yaml_, keys_, name(key) + "[" + std::to_string(i) + "]", indent_ + 4);
      describe(inner, values[i]);
    }
  }

 private:
  [[nodiscard]] std::string name(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }
  void put(const char* key, const std::string& value) {
    yaml_ += std::string(static_cast<size_t>(indent_), ' ') + key + ": " + value + "\n";
    keys_[name(key)] = value;
  }

  std::string& yaml_;
  std::map<std::string, std::string>& keys_;
  std::string path_;
  int indent_;
};

/// Puts file:line before a message that opens with a key ("optimizer.lr = ...").
std::string located(const ConfigNode& root, const std::string& message) {
  std::string key = message.substr(0, message.find_first_of(" :"));
  for (; !key.empty(); key = key.rfind('.') == std::string::npos ? "" : key.substr(0, key.rfind('.'))) {
    const ConfigNode* node = &root;
    size_t begin = 0;
    while (node != nullptr && begin <= key.size()) {
      const size_t dot = std::min(key.find('.', begin), key.size());
      node = node->find(key.substr(begin, dot - begin));
      begin = dot + 1;
    }
    if (node != nullptr) return node->where + ": " + message;
  }
  return root.where.substr(0, root.where.rfind(':')) + ": " + message;
}

Recipe resolve(const ConfigNode& node) {
  Recipe recipe;
  Reader::read_struct(node, "", recipe);
  if (recipe.config.output.empty()) recipe.config.output = "runs/" + recipe.config.name;
  if (recipe.config.task == "pretrain" && (node.find("data") == nullptr || node.find("data")->find("overlong") == nullptr))
    recipe.config.data.overlong = "split";
  try {
    recipe.config.validate();
    if (recipe.config.task == "grpo" && !recipe.rl) throw ConfigError("task = grpo needs the section rl, with rl.rewards");
    if (recipe.config.task != "grpo" && recipe.rl) throw ConfigError("rl belongs to task: grpo, and the task is " + recipe.config.task + "; leave the section out");
    if (recipe.config.task != "dpo" && recipe.dpo) throw ConfigError("dpo belongs to task: dpo, and the task is " + recipe.config.task + "; leave the section out");
    if (recipe.rl) recipe.rl->validate();
    if (recipe.config.task == "dpo" && !recipe.dpo) recipe.dpo.emplace();
    if (recipe.dpo) recipe.dpo->validate();
  } catch (const ConfigError& error) {
    throw ConfigError(located(node, error.what()));
  }
  Writer writer(recipe.yaml, recipe.keys, "", 0);
  describe(writer, recipe);
  return recipe;
}

}  // namespace

Recipe load_recipe(const std::filesystem::path& path, const std::vector<std::string>& overrides) {
  return resolve(load_config(path, overrides));
}

Recipe parse_recipe(const std::string& text, const std::string& name) { return resolve(parse_config(text, name)); }

}  // namespace tessera::recipes
