// Filters, tests and methods of the template language.
#include <utf8proc.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "core/error.h"
#include "data/jinja_value.h"
#include "data/unicode.h"

namespace tessera::data::jinja {

namespace {

std::string map_characters(std::string_view text, const std::function<uint32_t(uint32_t)>& change) {
  std::string out;
  for (const auto c : characters(text)) append_utf8(change(decode_utf8(c.data()).value), out);
  return out;
}

uint32_t upper(uint32_t c) {
  return static_cast<uint32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}
uint32_t lower(uint32_t c) {
  return static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

std::string capitalize(std::string_view text) {
  bool first = true;
  return map_characters(
      text, [&](uint32_t c) { return std::exchange(first, false) ? upper(c) : lower(c); });
}

std::string title(std::string_view text) {
  bool in_word = false;
  return map_characters(text, [&](uint32_t c) {
    const bool letter = char_classes()[c] == kLetter;
    return std::exchange(in_word, letter) ? lower(c) : upper(c);
  });
}

std::string replace_all(std::string_view text, const std::string& from, const std::string& to,
                        int64_t count, const Fail& fail) {
  if (from.empty()) fail("replace needs a text to look for");
  std::string out;
  while (count-- != 0) {
    const size_t at = text.find(from);
    if (at == std::string_view::npos) break;
    out.append(text.substr(0, at)).append(to);
    text.remove_prefix(at + from.size());
  }
  return out.append(text);
}

Json split(std::string_view text, const Value* separator, int64_t limit, const Fail& fail) {
  Json out = Json::array();
  if (separator == nullptr || separator->is_none()) {
    std::string rest = strip(text, nullptr, true, true);
    while (!rest.empty()) {
      const auto all = characters(rest);
      size_t bytes = 0;
      if (limit-- == 0) bytes = rest.size();
      for (const auto c : all) {
        if (bytes == rest.size() || char_classes()[decode_utf8(c.data()).value] == kSpace) break;
        bytes += c.size();
      }
      out.push_back(rest.substr(0, bytes));
      rest = strip(std::string_view(rest).substr(bytes), nullptr, true, false);
    }
    return out;
  }
  const std::string& by = to_string(*separator, "split", fail);
  if (by.empty()) fail("split needs a separator that is not empty");
  while (limit-- != 0) {
    const size_t at = text.find(by);
    if (at == std::string_view::npos) break;
    out.push_back(std::string(text.substr(0, at)));
    text.remove_prefix(at + by.size());
  }
  out.push_back(std::string(text));
  return out;
}

int64_t length_of(const Value& value, const Fail& fail) {
  if (value.is_string())
    return static_cast<int64_t>(characters(value.json->get_ref<const std::string&>()).size());
  if (value.is_undefined()) return 0;
  if (value.json == nullptr || !value.json->is_structured())
    fail(kind_name(value) + " has no length");
  return static_cast<int64_t>(value.json->size());
}

Json pairs(const Value& value, const Fail& fail) {
  if (value.json == nullptr || !value.json->is_object())
    fail("items needs an object, not " + kind_name(value));
  Json out = Json::array();
  for (const auto& [key, item] : value.json->items()) out.push_back(Json::array({key, item}));
  return out;
}

Json copy_of(const Value& value, const Fail& fail) {
  if (value.json == nullptr) fail(kind_name(value) + " where a value is needed");
  return *value.json;
}

Value attribute(const Value& value, const std::string& name) {
  if (value.json != nullptr && value.json->is_object()) {
    if (const auto found = value.json->find(name); found != value.json->end())
      return value.part(*found);
  }
  return Value::undefined(name);
}

// selectattr, rejectattr, select, reject, map.
Value choose(const std::string& name, const Value& value, const Arguments& arguments,
             const Fail& fail) {
  const bool by_attribute = name.ends_with("attr");
  const bool keep = name.starts_with("select");
  Json out = Json::array();
  const size_t offset = by_attribute ? 1 : 0;
  if (by_attribute && arguments.positional.empty()) fail(name + " needs an attribute");
  for (const Value& item : elements(value, fail)) {
    const Value subject =
        by_attribute ? attribute(item, to_string(arguments.positional[0], name.c_str(), fail))
                     : item;
    bool result = truthy(subject);
    if (arguments.positional.size() > offset) {
      Arguments rest;
      rest.positional.assign(arguments.positional.begin() + static_cast<std::ptrdiff_t>(offset) + 1,
                             arguments.positional.end());
      result = apply_test(to_string(arguments.positional[offset], name.c_str(), fail), subject,
                          rest, fail);
    }
    if (result == keep) out.push_back(copy_of(item, fail));
  }
  return Value(std::move(out));
}

Value map_filter(const Value& value, const Arguments& arguments, const Fail& fail) {
  Json out = Json::array();
  const auto by = arguments.named.find("attribute");
  for (const Value& item : elements(value, fail)) {
    if (by != arguments.named.end()) {
      out.push_back(copy_of(attribute(item, to_string(by->second, "map", fail)), fail));
    } else {
      if (arguments.positional.empty()) fail("map needs a filter or an attribute");
      Arguments rest;
      rest.positional.assign(arguments.positional.begin() + 1, arguments.positional.end());
      out.push_back(copy_of(
          apply_filter(to_string(arguments.positional[0], "map", fail), item, rest, fail), fail));
    }
  }
  return Value(std::move(out));
}

Value join(const Value& value, const Arguments& arguments, const Fail& fail) {
  const Value* by = arguments.find(0, "d");
  const std::string separator = by == nullptr ? "" : to_text(*by, fail);
  const Value* key = arguments.find(1, "attribute");
  std::string out;
  bool first = true;
  for (const Value& item : elements(value, fail)) {
    if (!first) out += separator;
    first = false;
    out += to_text(key == nullptr ? item : attribute(item, to_string(*key, "join", fail)), fail);
  }
  return Value(out);
}

int64_t parse_integer(const Value& value, int64_t fallback) {
  if (value.json == nullptr) return fallback;
  if (value.json->is_boolean()) return value.json->get<bool>();
  if (value.json->is_number()) {
    const double number = value.json->get<double>();
    return std::abs(number) < 9e18 ? value.json->is_number_integer() ? value.json->get<int64_t>()
                                                                     : static_cast<int64_t>(number)
                                   : fallback;
  }
  if (!value.json->is_string()) return fallback;
  const std::string text = strip(value.json->get_ref<const std::string&>(), nullptr, true, true);
  char* end = nullptr;
  const int64_t number = std::strtoll(text.c_str(), &end, 10);
  return !text.empty() && *end == '\0' ? number : fallback;
}

Json unique(const Value& value, const Fail& fail) {
  Json out = Json::array();
  for (const Value& item : elements(value, fail)) {
    Json copy = copy_of(item, fail);
    if (std::find(out.begin(), out.end(), copy) == out.end()) out.push_back(std::move(copy));
  }
  return out;
}

}  // namespace

Value apply_filter(const std::string& name, const Value& value, const Arguments& arguments,
                   const Fail& fail) {
  const auto string_argument = [&](size_t index, const char* key) -> const std::string& {
    const Value* found = arguments.find(index, key);
    if (found == nullptr) fail(name + " lacks an argument");
    return to_string(*found, name.c_str(), fail);
  };
  if (name == "default" || name == "d") {
    const Value* other = arguments.find(0, "default_value");
    const Value* also_false = arguments.find(1, "boolean");
    const bool replace =
        value.is_undefined() || (also_false != nullptr && truthy(*also_false) && !truthy(value));
    return !replace ? value : other == nullptr ? Value(Json("")) : *other;
  }
  if (name == "tojson") {
    if (value.json == nullptr) fail("tojson: " + kind_name(value) + " is not JSON");
    const Value* indent = arguments.find(0, "indent");
    const int64_t spaces = indent == nullptr || indent->is_none() ? -1 : to_integer(*indent, fail);
    if (spaces > 16) fail("tojson: an indent of at most 16 is supported");
    return Value(dump_json(*value.json, static_cast<int>(spaces)));
  }
  if (name == "length" || name == "count") return Value(length_of(value, fail));
  if (name == "trim")
    return Value(strip(to_text(value, fail), arguments.find(0, "chars"), true, true));
  if (name == "string") return Value(to_text(value, fail));
  if (name == "upper") return Value(map_characters(to_text(value, fail), upper));
  if (name == "lower") return Value(map_characters(to_text(value, fail), lower));
  if (name == "capitalize") return Value(capitalize(to_text(value, fail)));
  if (name == "title") return Value(title(to_text(value, fail)));
  if (name == "safe") return value;
  if (name == "join") return join(value, arguments, fail);
  if (name == "replace") {
    const Value* count = arguments.find(2, "count");
    return Value(replace_all(to_text(value, fail), string_argument(0, "old"),
                             string_argument(1, "new"),
                             count == nullptr ? -1 : to_integer(*count, fail), fail));
  }
  if (name == "first" || name == "last") {
    const auto all = elements(value, fail);
    return all.empty() ? Value::undefined(name) : name == "first" ? all.front() : all.back();
  }
  if (name == "list" || name == "reverse") {
    Json out = Json::array();
    auto all = elements(value, fail);
    if (name == "reverse") std::reverse(all.begin(), all.end());
    for (const Value& item : all) out.push_back(copy_of(item, fail));
    return Value(std::move(out));
  }
  if (name == "unique") return Value(unique(value, fail));
  if (name == "items") return Value(pairs(value, fail));
  if (name == "dictsort") {
    Json out = pairs(value, fail);
    std::stable_sort(out.begin(), out.end(),
                     [](const Json& a, const Json& b) { return a[0] < b[0]; });
    return Value(std::move(out));
  }
  if (name == "int") {
    const Value* other = arguments.find(0, "default");
    return Value(parse_integer(value, other == nullptr ? 0 : to_integer(*other, fail)));
  }
  if (name == "map") return map_filter(value, arguments, fail);
  if (name == "select" || name == "reject" || name == "selectattr" || name == "rejectattr") {
    return choose(name, value, arguments, fail);
  }
  fail("the filter '" + name + "' is not supported");
  return {};
}

bool apply_test(const std::string& name, const Value& value, const Arguments& arguments,
                const Fail& fail) {
  const Json* json = value.json.get();
  if (name == "defined") return !value.is_undefined();
  if (name == "undefined") return value.is_undefined();
  if (name == "none") return value.is_none();
  if (name == "string") return value.is_string();
  if (name == "mapping") return value.space != nullptr || (json != nullptr && json->is_object());
  if (name == "sequence") return json != nullptr && (json->is_structured() || json->is_string());
  if (name == "iterable")
    return value.is_undefined() ||
           (json != nullptr && (json->is_structured() || json->is_string()));
  if (name == "number") return json != nullptr && (json->is_number() || json->is_boolean());
  if (name == "integer") return json != nullptr && json->is_number_integer();
  if (name == "float") return json != nullptr && json->is_number_float();
  if (name == "boolean") return json != nullptr && json->is_boolean();
  if (name == "true") return json != nullptr && json->is_boolean() && json->get<bool>();
  if (name == "false") return json != nullptr && json->is_boolean() && !json->get<bool>();
  if (name == "odd" || name == "even") return (to_integer(value, fail) % 2 != 0) == (name == "odd");
  const Value* other = arguments.find(0, "other");
  if (other == nullptr && (name == "equalto" || name == "eq" || name == "==" || name == "ne" ||
                           name == "in" || name == "divisibleby")) {
    fail("the test '" + name + "' lacks an argument");
  }
  if (name == "equalto" || name == "eq" || name == "==") return equal(value, *other);
  if (name == "ne") return !equal(value, *other);
  if (name == "divisibleby") {
    const int64_t by = to_integer(*other, fail);
    if (by == 0) fail("division by zero");
    return by == -1 || to_integer(value, fail) % by == 0;
  }
  if (name == "in") {
    const auto all = elements(*other, fail);
    return std::any_of(all.begin(), all.end(),
                       [&](const Value& item) { return equal(item, value); });
  }
  fail("the test '" + name + "' is not supported");
  return false;
}

Value call_method(const Value& value, const std::string& name, const Arguments& arguments,
                  const Fail& fail) {
  const Value* first = arguments.find(0, "");
  const auto need = [&]() -> const Value& {
    if (first == nullptr) fail(name + "() lacks an argument");
    return *first;
  };
  if (value.is_string()) {
    const std::string& text = value.json->get_ref<const std::string&>();
    if (name == "strip") return Value(strip(text, first, true, true));
    if (name == "lstrip") return Value(strip(text, first, true, false));
    if (name == "rstrip") return Value(strip(text, first, false, true));
    if (name == "startswith" || name == "endswith") {
      const auto hit = [&](const Value& affix) {
        const std::string& wanted = to_string(affix, name.c_str(), fail);
        return name == "startswith" ? text.starts_with(wanted) : text.ends_with(wanted);
      };
      const Value& affix = need();
      if (affix.is_string()) return Value(hit(affix));
      const auto all = elements(affix, fail);
      return Value(std::any_of(all.begin(), all.end(), hit));
    }
    if (name == "split") {
      const Value* limit = arguments.find(1, "maxsplit");
      const Value* separator = arguments.find(0, "sep");
      return Value(split(text, separator, limit == nullptr ? -1 : to_integer(*limit, fail), fail));
    }
    if (name == "replace") {
      if (arguments.positional.size() < 2) fail("replace() needs two arguments");
      const Value* count = arguments.find(2, "count");
      return Value(replace_all(text, to_string(need(), "replace", fail),
                               to_string(arguments.positional[1], "replace", fail),
                               count == nullptr ? -1 : to_integer(*count, fail), fail));
    }
    if (name == "upper") return Value(map_characters(text, upper));
    if (name == "lower") return Value(map_characters(text, lower));
    if (name == "title") return Value(title(text));
    if (name == "capitalize") return Value(capitalize(text));
    if (name == "join") {
      Arguments by;
      by.positional.push_back(value);
      return join(need(), by, fail);
    }
    if (name == "count") {
      int64_t count = 0;
      const std::string& wanted = to_string(need(), "count", fail);
      if (wanted.empty()) fail("count() needs a text that is not empty");
      for (size_t at = text.find(wanted); at != std::string::npos;
           at = text.find(wanted, at + wanted.size()))
        ++count;
      return Value(count);
    }
  }
  if (value.json != nullptr && value.json->is_object()) {
    if (name == "items") return Value(pairs(value, fail));
    if (name == "get") {
      const auto found = value.json->find(to_string(need(), "get", fail));
      if (found != value.json->end()) return value.part(*found);
      return arguments.positional.size() > 1 ? arguments.positional[1] : Value(Json());
    }
    if (name == "keys" || name == "values") {
      Json out = Json::array();
      for (const auto& [key, item] : value.json->items())
        out.push_back(name == "keys" ? Json(key) : item);
      return Value(std::move(out));
    }
  }
  fail("the method '" + name + "' of " + kind_name(value) + " is not supported");
  return {};
}

}  // namespace tessera::data::jinja
