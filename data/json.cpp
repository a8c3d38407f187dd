#include "data/json.h"

#include "core/error.h"

namespace tessera::data {

namespace {
constexpr int kMaxDepth = 128;

// nlohmann's copies and dumps recurse, so depth is bounded before it parses.
void check_depth(std::string_view text, std::string_view where) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) {
        throw ConfigError(
            detail::concat(where, ": JSON nested deeper than ", kMaxDepth, " levels"));
      }
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

template <typename J>
J parse(std::string_view text, std::string_view where) {
  check_depth(text, where);
  try {
    return J::parse(text);
  } catch (const nlohmann::json::exception& error) {
    std::string reason = error.what();
    // "[json.exception.parse_error.101] parse error at line 1, column 5: syntax error ...": keep
    // what helps.
    if (const size_t end = reason.find("] "); end != std::string::npos) reason.erase(0, end + 2);
    throw ConfigError(detail::concat(where, ": not valid JSON: ", reason));
  }
}
}  // namespace

Json parse_json(std::string_view text, std::string_view where) { return parse<Json>(text, where); }

nlohmann::json parse_large_json(std::string_view text, std::string_view where) {
  return parse<nlohmann::json>(text, where);
}

const char* json_kind(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::boolean:
      return "a boolean";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
      return "an integer";
    case Json::value_t::number_float:
      return "a number";
    default:
      return "unreadable";
  }
}

}  // namespace tessera::data
