#include "model/config_reader.h"

#include "core/error.h"
#include "core/text.h"

namespace tessera::model {

using nlohmann::json;

int64_t ConfigReader::integer(const char* key, int64_t fallback) const {
  if (!has(key)) return fallback;
  if (!object_[key].is_number_integer()) fail(key, "must be an integer");
  return object_[key].get<int64_t>();
}

int64_t ConfigReader::required(const char* key) const {
  if (!has(key)) fail(key, "is missing");
  return integer(key, 0);
}

int64_t ConfigReader::required_any(const std::vector<const char*>& keys) const {
  for (const char* key : keys)
    if (has(key)) return integer(key, 0);
  fail(keys.front(), "is missing");
}

double ConfigReader::number(const char* key, double fallback) const {
  if (!has(key)) return fallback;
  if (!object_[key].is_number()) fail(key, "must be a number");
  return object_[key].get<double>();
}

bool ConfigReader::boolean(const char* key, bool fallback) const {
  if (!has(key)) return fallback;
  if (!object_[key].is_boolean()) fail(key, "must be true or false");
  return object_[key].get<bool>();
}

std::string ConfigReader::text(const char* key, const std::string& fallback) const {
  if (!has(key)) return fallback;
  if (!object_[key].is_string()) fail(key, "must be a string");
  return object_[key].get<std::string>();
}

std::vector<int64_t> ConfigReader::integers(const char* key) const {
  std::vector<int64_t> list;
  if (!has(key)) return list;
  if (!object_[key].is_array()) fail(key, "must be a list of integers");
  for (const json& item : object_[key]) {
    if (!item.is_number_integer()) fail(key, "must be a list of integers");
    list.push_back(item.get<int64_t>());
  }
  return list;
}

void ConfigReader::only(const char* key, const std::vector<json>& values) const {
  if (!has(key)) return;
  std::vector<std::string> known;
  for (const json& value : values) {
    if (object_[key] == value) return;
    known.push_back(value.dump());
  }
  fail(key, "= " + object_[key].dump() + " is not supported; known: " + join(known));
}

void ConfigReader::fail(const std::string& key, const std::string& what) const {
  throw ConfigError(source_ + ": '" + key + "' " + what);
}

}  // namespace tessera::model
