// Fills structs from a recipe's tree, by the descriptions of schema.h, and complains about keys that nobody asked for.
#pragma once

#include <charconv>
#include <cmath>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/text.h"
#include "recipes/config_node.h"

namespace tessera::recipes {

// Sections of the recipe language that this version reads no further than to say so.
inline const std::set<std::string> kLaterSections = {"distill"};

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

}  // namespace tessera::recipes
