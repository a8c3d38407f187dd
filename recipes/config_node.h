// A recipe's text as a tree in which every value remembers where it was written, so that every complaint can name file
// and line. Handles `base:`, duplicate keys and key=value overrides.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::recipes {

struct ConfigNode {
  enum class Kind { kScalar, kList, kMap };
  struct Entry;
  Kind kind = Kind::kMap;
  std::string scalar;
  bool quoted = false;  // a string even if it looks like a number
  std::vector<ConfigNode> items;
  std::vector<Entry> entries;
  std::string where;  // "recipes/x.yaml:14" or "command line"

  [[nodiscard]] const ConfigNode* find(std::string_view key) const;
  [[nodiscard]] nlohmann::json to_json() const;
};

struct ConfigNode::Entry {
  std::string key;
  ConfigNode value;
};

/// Parses YAML text (or JSON, which is YAML). Throws ConfigError with `name`:line for bad syntax, duplicate keys, anchors
/// nested too deeply, or anything that is not a map at the top.
[[nodiscard]] ConfigNode parse_config(const std::string& text, const std::string& name);

/// Lays `over` over `base`, section by section. A list whose items have names is changed item by item where `over` is a section with
/// their names as keys.
void merge(ConfigNode& base, const ConfigNode& over);

/// Reads a recipe file, merges it over its `base` (one level deep, path relative to the file), then applies overrides
/// "a.b.c=value" in order.
[[nodiscard]] ConfigNode load_config(const std::filesystem::path& path, const std::vector<std::string>& overrides);

}  // namespace tessera::recipes
