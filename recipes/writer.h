// Writes structs as YAML and as flat keys, by the descriptions of schema.h.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace tessera::recipes {

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

}  // namespace tessera::recipes
