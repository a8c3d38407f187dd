// JSON as data/ reads it: keys keep their order (a template's tojson shows it), nesting is bounded,
// and every mistake is a ConfigError that says where.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace tessera::data {

using Json = nlohmann::ordered_json;

/// Parses one document. `where` ("file:line") opens the message. Throws ConfigError on malformed
/// text, invalid UTF-8, lone surrogates and nesting deeper than 128.
[[nodiscard]] Json parse_json(std::string_view text, std::string_view where);

/// The same into nlohmann::json, whose objects stay fast with many keys (vocabularies) but lose the
/// key order.
[[nodiscard]] nlohmann::json parse_large_json(std::string_view text, std::string_view where);

/// "a string", "an array", ...: for messages.
[[nodiscard]] const char* json_kind(const Json& value);

}  // namespace tessera::data
