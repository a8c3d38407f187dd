// What the two readers of tokenizer files share.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"
#include "data/added_tokens.h"

namespace tessera::data::read {

using nlohmann::json;

template <typename... Parts>
[[noreturn]] void refuse(const std::string& name, const Parts&... parts) {
  throw ConfigError(tessera::detail::concat(name, ": ", parts...));
}

/// The member, or null.
[[nodiscard]] const json& member(const json& object, const char* key);
/// A boolean member, false when absent.
[[nodiscard]] bool flag(const json& object, const char* key, const std::string& name);
[[nodiscard]] int32_t read_id(const json& value, const std::string& name, const std::string& what);
/// All but the id.
[[nodiscard]] AddedToken read_added_token(const json& item, const std::string& name);

}  // namespace tessera::data::read
