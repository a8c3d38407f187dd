// Reads keys of one JSON object of a config.json; every complaint names the file and the key.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tessera::model {

class ConfigReader final {
 public:
  /// `object` must outlive the reader.
  ConfigReader(const nlohmann::json& object, std::string source) : object_(object), source_(std::move(source)) {}

  [[nodiscard]] const nlohmann::json& object() const { return object_; }
  [[nodiscard]] const std::string& source() const { return source_; }
  /// Whether the key is there and not null.
  [[nodiscard]] bool has(const char* key) const { return object_.contains(key) && !object_[key].is_null(); }

  [[nodiscard]] int64_t integer(const char* key, int64_t fallback) const;
  [[nodiscard]] int64_t required(const char* key) const;
  /// The first of several spellings of one key that is there.
  [[nodiscard]] int64_t required_any(const std::vector<const char*>& keys) const;
  [[nodiscard]] double number(const char* key, double fallback) const;
  [[nodiscard]] bool boolean(const char* key, bool fallback) const;
  [[nodiscard]] std::string text(const char* key, const std::string& fallback) const;
  [[nodiscard]] std::vector<int64_t> integers(const char* key) const;

  /// Throws unless the key is absent or has one of the values.
  void only(const char* key, const std::vector<nlohmann::json>& values) const;
  [[noreturn]] void fail(const std::string& key, const std::string& what) const;

 private:
  const nlohmann::json& object_;
  std::string source_;
};

}  // namespace tessera::model
