// Values of the template language and the functions on them that need no evaluator.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/json.h"

namespace tessera::data::jinja {

struct Node;

/// Undefined (none of these), a shared read-only JSON value, a namespace, which {% set ns.x = .. %}
/// changes, a macro, or a function by its name.
struct Value {
  std::shared_ptr<const Json> json;
  std::shared_ptr<std::map<std::string, Value>> space;
  const Node* macro = nullptr;
  std::string function;
  std::string missing;  // of an undefined value: its name, for messages

  Value() = default;
  explicit Value(Json value) : json(std::make_shared<const Json>(std::move(value))) {}
  static Value undefined(std::string name) {
    Value value;
    value.missing = std::move(name);
    return value;
  }
  /// Part of this value, without a copy.
  [[nodiscard]] Value part(const Json& inner) const {
    Value value;
    value.json = std::shared_ptr<const Json>(json, &inner);
    return value;
  }
  [[nodiscard]] bool is_callable() const { return macro != nullptr || !function.empty(); }
  [[nodiscard]] bool is_undefined() const {
    return json == nullptr && space == nullptr && !is_callable();
  }
  [[nodiscard]] bool is_string() const { return json != nullptr && json->is_string(); }
  [[nodiscard]] bool is_none() const { return json != nullptr && json->is_null(); }
  [[nodiscard]] bool is_integer() const {
    return json != nullptr && (json->is_number_integer() || json->is_boolean());
  }
};

/// Arguments of a call, filter or test.
struct Arguments {
  std::vector<Value> positional;
  std::map<std::string, Value> named;
  /// The argument by place or name, or nullptr.
  [[nodiscard]] const Value* find(size_t index, const char* name) const;
};

/// Throws ConfigError with the template's name and the line.
using Fail = std::function<void(const std::string&)>;

[[nodiscard]] bool truthy(const Value& value);
/// As Python prints it: True, None, 1.0, ['a'].
[[nodiscard]] std::string to_text(const Value& value, const Fail& fail);
[[nodiscard]] std::string kind_name(const Value& value);
[[nodiscard]] bool equal(const Value& a, const Value& b);
/// Less than, as Python orders numbers, strings and lists. Strings without regard to case when
/// asked.
[[nodiscard]] bool less(const Value& a, const Value& b, bool ignore_case, const Fail& fail);

struct JsonStyle {
  std::optional<std::string> indent;  // of one level
  bool ensure_ascii = false, sort_keys = false;
  std::string comma = ", ", colon = ": ";
};
/// As Python's json.dumps.
[[nodiscard]] std::string dump_json(const Json& value, const JsonStyle& style, size_t depth = 0);
/// Elements of a list, keys of an object, characters of a string; undefined is empty.
[[nodiscard]] std::vector<Value> elements(const Value& value, const Fail& fail);
[[nodiscard]] int64_t to_integer(const Value& value, const Fail& fail);
[[nodiscard]] const std::string& to_string(const Value& value, const char* what, const Fail& fail);

[[nodiscard]] Value apply_filter(const std::string& name, const Value& value,
                                 const Arguments& arguments, const Fail& fail);
[[nodiscard]] bool apply_test(const std::string& name, const Value& value,
                              const Arguments& arguments, const Fail& fail);
/// The part of a value that "a.b" or "0" names, undefined where there is none.
[[nodiscard]] Value find_attribute(const Value& value, const std::string& path);
/// value.name(...) on a string or an object.
[[nodiscard]] Value call_method(const Value& value, const std::string& name,
                                const Arguments& arguments, const Fail& fail);

}  // namespace tessera::data::jinja
