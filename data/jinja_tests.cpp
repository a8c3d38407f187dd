// Tests of the template language: what follows "is".
#include <algorithm>

#include "core/error.h"
#include "data/jinja_text.h"
#include "data/jinja_value.h"

namespace tessera::data::jinja {

namespace {

// Tests of a value alone; nothing for other names.
std::optional<bool> kind_test(const std::string& name, const Value& value) {
  const Json* json = value.json.get();
  const bool structured = json != nullptr && (json->is_structured() || json->is_string());
  if (name == "defined") return !value.is_undefined();
  if (name == "undefined") return value.is_undefined();
  if (name == "none") return value.is_none();
  if (name == "string") return value.is_string();
  if (name == "mapping") return json != nullptr && json->is_object();
  if (name == "sequence" || name == "iterable") return value.is_undefined() || structured;
  if (name == "number") return json != nullptr && (json->is_number() || json->is_boolean());
  if (name == "integer") return json != nullptr && json->is_number_integer();
  if (name == "float") return json != nullptr && json->is_number_float();
  if (name == "boolean") return json != nullptr && json->is_boolean();
  if (name == "true") return json != nullptr && json->is_boolean() && json->get<bool>();
  if (name == "false") return json != nullptr && json->is_boolean() && !json->get<bool>();
  if (name == "callable") return value.is_callable();
  return std::nullopt;
}

bool case_test(const std::string& name, const Value& value, const Fail& fail) {
  const std::string text = to_text(value, fail);
  const std::string other = name == "lower" ? lower_case(text) : upper_case(text);
  return text == other && lower_case(text) != upper_case(text);
}

// Tests against another value; nothing for other names.
std::optional<bool> comparison_test(const std::string& name, const Value& value, const Value& other,
                                    const Fail& fail) {
  if (name == "equalto" || name == "eq" || name == "==" || name == "sameas")
    return equal(value, other);
  if (name == "ne" || name == "!=") return !equal(value, other);
  if (name == "lt" || name == "lessthan" || name == "<") return less(value, other, false, fail);
  if (name == "gt" || name == "greaterthan" || name == ">") return less(other, value, false, fail);
  if (name == "le" || name == "<=") return !less(other, value, false, fail);
  if (name == "ge" || name == ">=") return !less(value, other, false, fail);
  if (name == "divisibleby") {
    const int64_t by = to_integer(other, fail);
    if (by == 0) fail("division by zero");
    return by == -1 || to_integer(value, fail) % by == 0;
  }
  if (name == "in") {
    if (other.is_string())
      return other.json->get_ref<const std::string&>().find(to_string(value, "in", fail)) !=
             std::string::npos;
    const auto all = elements(other, fail);
    return std::any_of(all.begin(), all.end(),
                       [&](const Value& item) { return equal(item, value); });
  }
  return std::nullopt;
}

}  // namespace

bool apply_test(const std::string& name, const Value& value, const Arguments& arguments,
                const Fail& fail) {
  if (const auto result = kind_test(name, value)) return *result;
  if (name == "lower" || name == "upper") return case_test(name, value, fail);
  if (name == "odd" || name == "even") return (to_integer(value, fail) % 2 != 0) == (name == "odd");
  const Value* other = arguments.find(0, "other");
  const auto result = comparison_test(name, value, other == nullptr ? value : *other, fail);
  if (!result) fail("the test '" + name + "' is not supported");
  if (other == nullptr) fail("the test '" + name + "' lacks an argument");
  return *result;
}

}  // namespace tessera::data::jinja
