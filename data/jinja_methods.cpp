// Methods of the template language's strings and objects.
#include <algorithm>
#include <unordered_map>

#include "core/error.h"
#include "data/jinja_text.h"
#include "data/jinja_value.h"
#include "data/unicode.h"

namespace tessera::data::jinja {

namespace {

constexpr int64_t kMaxWidth = 10'000;

/// text.name(arguments)
struct Call {
  const std::string& name;
  const std::string& text;
  const Arguments& arguments;
  const Fail& fail;

  [[nodiscard]] const Value& need(size_t index, const char* key) const {
    const Value* found = arguments.find(index, key);
    if (found == nullptr) fail(name + "() lacks an argument");
    return *found;
  }
  [[nodiscard]] const std::string& string(size_t index, const char* key) const {
    return to_string(need(index, key), name.c_str(), fail);
  }
  [[nodiscard]] std::optional<std::string> optional(size_t index, const char* key) const {
    const Value* found = arguments.find(index, key);
    return found == nullptr || found->is_none()
               ? std::nullopt
               : std::optional(to_string(*found, name.c_str(), fail));
  }
  [[nodiscard]] int64_t integer(size_t index, const char* key, int64_t fallback) const {
    const Value* found = arguments.find(index, key);
    return found == nullptr || found->is_none() ? fallback : to_integer(*found, fail);
  }
};

Value strings(const std::vector<std::string>& parts) {
  Json out = Json::array();
  for (const std::string& part : parts) out.push_back(part);
  return Value(std::move(out));
}

Value strip_method(const Call& call) {
  return Value(
      strip(call.text, call.optional(0, "chars"), call.name != "rstrip", call.name != "lstrip"));
}

Value affix_method(const Call& call) {
  const auto hit = [&](const Value& affix) {
    const std::string& wanted = to_string(affix, call.name.c_str(), call.fail);
    return call.name == "startswith" ? call.text.starts_with(wanted) : call.text.ends_with(wanted);
  };
  const Value& affix = call.need(0, "prefix");
  if (affix.is_string()) return Value(hit(affix));
  const auto all = elements(affix, call.fail);
  return Value(std::any_of(all.begin(), all.end(), hit));
}

Value remove_affix(const Call& call) {
  const std::string& affix = call.string(0, "affix");
  if (call.name == "removeprefix")
    return Value(call.text.substr(call.text.starts_with(affix) ? affix.size() : 0));
  return Value(
      call.text.substr(0, call.text.size() - (call.text.ends_with(affix) ? affix.size() : 0)));
}

Value split_method(const Call& call) {
  const auto separator = call.optional(0, "sep");
  if (separator && separator->empty())
    call.fail(call.name + "() needs a separator that is not empty");
  return strings(
      split_text(call.text, separator, call.integer(1, "maxsplit", -1), call.name == "rsplit"));
}

// [before, separator, behind]
Value partition(const Call& call) {
  const std::string& by = call.string(0, "sep");
  if (by.empty()) call.fail(call.name + "() needs a separator that is not empty");
  const bool right = call.name == "rpartition";
  const size_t at = right ? call.text.rfind(by) : call.text.find(by);
  if (at == std::string::npos)
    return right ? strings({"", "", call.text}) : strings({call.text, "", ""});
  return strings({call.text.substr(0, at), by, call.text.substr(at + by.size())});
}

Value replace_method(const Call& call) {
  const std::string& from = call.string(0, "old");
  if (from.empty()) call.fail("replace() needs a text to look for");
  const auto text =
      replace_all(call.text, from, call.string(1, "new"), call.integer(2, "count", -1));
  if (!text) call.fail("replace() makes a text that is too large");
  return Value(*text);
}

// In characters.
Value find_method(const Call& call) {
  const std::string& wanted = call.string(0, "sub");
  const size_t at = call.name[0] == 'r' ? call.text.rfind(wanted) : call.text.find(wanted);
  if (at == std::string::npos && call.name.ends_with("index"))
    call.fail(call.name + "(): the text is not there");
  return Value(
      at == std::string::npos
          ? int64_t{-1}
          : static_cast<int64_t>(characters(std::string_view(call.text).substr(0, at)).size()));
}

Value count_method(const Call& call) {
  const std::string& wanted = call.string(0, "sub");
  if (wanted.empty()) call.fail("count() needs a text that is not empty");
  int64_t count = 0;
  for (size_t at = call.text.find(wanted); at != std::string::npos;
       at = call.text.find(wanted, at + wanted.size()))
    ++count;
  return Value(count);
}

Value join_method(const Call& call) {
  Arguments by;
  by.positional.push_back(Value(call.text));
  return apply_filter("join", call.need(0, "iterable"), by, call.fail);
}

// isdigit, isalpha, isalnum, isspace: all characters, and at least one.
Value class_method(const Call& call) {
  const auto all = characters(call.text);
  const auto fits = [&](std::string_view c) {
    const uint8_t kind = char_classes()[decode_utf8(c.data()).value];
    if (call.name == "isspace") return is_space(c);
    if (call.name == "isdigit") return kind == kNumber;
    return kind == kLetter || (call.name == "isalnum" && kind == kNumber);
  };
  return Value(!all.empty() && std::all_of(all.begin(), all.end(), fits));
}

Value case_test_method(const Call& call) {
  Arguments none;
  return Value(apply_test(call.name.substr(2), Value(call.text), none, call.fail));
}

// ljust, rjust, center, zfill
Value pad(const Call& call) {
  const int64_t width = std::min(call.integer(0, "width", 0), kMaxWidth);
  const int64_t missing = width - static_cast<int64_t>(characters(call.text).size());
  if (missing <= 0) return Value(call.text);
  const auto times = [](const std::string& text, int64_t count) {
    std::string out;
    for (int64_t i = 0; i < count; ++i) out += text;
    return out;
  };
  if (call.name == "zfill") return Value(times("0", missing) + call.text);
  const std::string fill = call.optional(1, "fillchar").value_or(" ");
  const int64_t left = call.name == "rjust"   ? missing
                       : call.name == "ljust" ? 0
                                              : missing / 2 + (missing & width & 1);
  return Value(times(fill, left) + call.text + times(fill, missing - left));
}

using Method = Value (*)(const Call&);

const std::unordered_map<std::string, Method>& methods() {
  static const std::unordered_map<std::string, Method> table = {
      {"capitalize", [](const Call& c) { return Value(capitalize(c.text)); }},
      {"center", pad},
      {"count", count_method},
      {"endswith", affix_method},
      {"find", find_method},
      {"index", find_method},
      {"isalnum", class_method},
      {"isalpha", class_method},
      {"isdigit", class_method},
      {"islower", case_test_method},
      {"isspace", class_method},
      {"isupper", case_test_method},
      {"join", join_method},
      {"ljust", pad},
      {"lower", [](const Call& c) { return Value(lower_case(c.text)); }},
      {"lstrip", strip_method},
      {"partition", partition},
      {"removeprefix", remove_affix},
      {"removesuffix", remove_affix},
      {"replace", replace_method},
      {"rfind", find_method},
      {"rindex", find_method},
      {"rjust", pad},
      {"rpartition", partition},
      {"rsplit", split_method},
      {"rstrip", strip_method},
      {"split", split_method},
      {"splitlines", [](const Call& c) { return strings(split_lines(c.text)); }},
      {"startswith", affix_method},
      {"strip", strip_method},
      {"title", [](const Call& c) { return Value(title(c.text)); }},
      {"upper", [](const Call& c) { return Value(upper_case(c.text)); }},
      {"zfill", pad},
  };
  return table;
}

Value object_method(const Value& value, const std::string& name, const Arguments& arguments,
                    const Fail& fail) {
  if (name == "items") return apply_filter("items", value, {}, fail);
  if (name == "get") {
    if (arguments.positional.empty()) fail("get() lacks an argument");
    const Value& key = arguments.positional[0];
    if (key.is_string()) {
      const auto found = value.json->find(key.json->get_ref<const std::string&>());
      if (found != value.json->end()) return value.part(*found);
    }
    const Value* other = arguments.find(1, "default");
    return other == nullptr ? Value(Json()) : *other;
  }
  if (name != "keys" && name != "values")
    fail("the method '" + name + "' of an object is not supported");
  Json out = Json::array();
  for (const auto& [key, item] : value.json->items())
    out.push_back(name == "keys" ? Json(key) : item);
  return Value(std::move(out));
}

// Of the variable "loop": cycle(a, b, ..).
Value loop_method(const Value& value, const std::string& name, const Arguments& arguments,
                  const Fail& fail) {
  const auto index = value.space->find("index0");
  if (name != "cycle" || index == value.space->end() || arguments.positional.empty())
    fail("the method '" + name + "' of a namespace is not supported");
  return arguments.positional[static_cast<size_t>(to_integer(index->second, fail)) %
                              arguments.positional.size()];
}

}  // namespace

Value call_method(const Value& value, const std::string& name, const Arguments& arguments,
                  const Fail& fail) {
  if (value.is_string()) {
    if (const auto found = methods().find(name); found != methods().end())
      return found->second({name, value.json->get_ref<const std::string&>(), arguments, fail});
  }
  if (value.json != nullptr && value.json->is_object())
    return object_method(value, name, arguments, fail);
  if (value.space != nullptr) return loop_method(value, name, arguments, fail);
  if (value.json != nullptr && value.json->is_array() && (name == "count" || name == "index")) {
    const Value* item = arguments.find(0, "value");
    const auto all = elements(value, fail);
    const auto is_item = [&](const Value& other) { return item != nullptr && equal(other, *item); };
    if (name == "count")
      return Value(static_cast<int64_t>(std::count_if(all.begin(), all.end(), is_item)));
    const auto found = std::find_if(all.begin(), all.end(), is_item);
    if (found == all.end()) fail("index(): the value is not there");
    return Value(static_cast<int64_t>(found - all.begin()));
  }
  fail("the method '" + name + "' of " + kind_name(value) + " is not supported");
  return {};
}

}  // namespace tessera::data::jinja
