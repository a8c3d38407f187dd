// Filters of the template language.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <unordered_map>

#include "core/error.h"
#include "data/jinja_text.h"
#include "data/jinja_value.h"

namespace tessera::data::jinja {

namespace {

constexpr int64_t kMaxWidth = 10'000;

/// One application of a filter.
struct Call {
  const std::string& name;
  const Value& value;
  const Arguments& arguments;
  const Fail& fail;

  [[nodiscard]] std::string text() const { return to_text(value, fail); }
  [[nodiscard]] std::vector<Value> items() const { return elements(value, fail); }
  [[nodiscard]] const Value* find(size_t index, const char* key) const {
    const Value* found = arguments.find(index, key);
    return found == nullptr || found->is_none() ? nullptr : found;
  }
  [[nodiscard]] int64_t integer(size_t index, const char* key, int64_t fallback) const {
    const Value* found = find(index, key);
    return found == nullptr ? fallback : to_integer(*found, fail);
  }
  [[nodiscard]] bool flag(size_t index, const char* key, bool fallback) const {
    const Value* found = arguments.find(index, key);
    return found == nullptr ? fallback : truthy(*found);
  }
  [[nodiscard]] std::optional<std::string> string(size_t index, const char* key) const {
    const Value* found = find(index, key);
    return found == nullptr ? std::nullopt : std::optional(to_string(*found, name.c_str(), fail));
  }
  [[nodiscard]] Value made(const std::optional<std::string>& text) const {
    if (!text) fail(name + " makes a text that is too large");
    return Value(*text);
  }
  [[nodiscard]] std::string needed(size_t index, const char* key) const {
    const auto found = string(index, key);
    if (!found) fail(name + " lacks an argument");
    return *found;
  }
};

Json copy_of(const Value& value, const Fail& fail) {
  if (value.json == nullptr) fail(kind_name(value) + " where a value is needed");
  return *value.json;
}

Value list_of(const std::vector<Value>& items, const Fail& fail) {
  Json out = Json::array();
  for (const Value& item : items) out.push_back(copy_of(item, fail));
  return Value(std::move(out));
}

// The attribute that an item is judged by, or the item itself.
Value judged(const Value& item, const std::optional<std::string>& attribute) {
  return attribute ? find_attribute(item, *attribute) : item;
}

Value default_filter(const Call& call) {
  const Value* other = call.arguments.find(0, "default_value");
  const bool replace =
      call.value.is_undefined() || (call.flag(1, "boolean", false) && !truthy(call.value));
  return !replace ? call.value : other == nullptr ? Value(Json("")) : *other;
}

// transformers' own: ensure_ascii, indent, separators, sort_keys.
Value tojson(const Call& call) {
  if (call.value.json == nullptr) call.fail("tojson: " + kind_name(call.value) + " is not JSON");
  JsonStyle style;
  style.ensure_ascii = call.flag(0, "ensure_ascii", false);
  style.sort_keys = call.flag(3, "sort_keys", false);
  if (const Value* indent = call.find(1, "indent")) {
    if (indent->is_string()) {
      style.indent = indent->json->get<std::string>().substr(0, 16);
    } else {
      const int64_t spaces = to_integer(*indent, call.fail);
      if (spaces > 16) call.fail("tojson: an indent of at most 16 is supported");
      style.indent = std::string(static_cast<size_t>(std::max<int64_t>(0, spaces)), ' ');
    }
    style.comma = ",";
  }
  if (const Value* separators = call.find(2, "separators")) {
    const auto both = elements(*separators, call.fail);
    if (both.size() != 2) call.fail("tojson: separators must be two texts");
    style.comma = to_string(both[0], "tojson", call.fail);
    style.colon = to_string(both[1], "tojson", call.fail);
  }
  return Value(dump_json(*call.value.json, style));
}

Value length(const Call& call) {
  if (call.value.is_string())
    return Value(
        static_cast<int64_t>(characters(call.value.json->get_ref<const std::string&>()).size()));
  if (call.value.is_undefined()) return Value(Json(0));
  if (call.value.json == nullptr || !call.value.json->is_structured())
    call.fail(kind_name(call.value) + " has no length");
  return Value(static_cast<int64_t>(call.value.json->size()));
}

Value join(const Call& call) {
  const Value* by = call.find(0, "d");
  const std::string separator = by == nullptr ? "" : to_text(*by, call.fail);
  const auto attribute = call.string(1, "attribute");
  std::string out;
  bool first = true;
  for (const Value& item : call.items()) {
    if (!std::exchange(first, false)) out += separator;
    out += to_text(judged(item, attribute), call.fail);
    if (out.size() > kMaxText) call.fail("join makes a text that is too large");
  }
  return Value(out);
}

Value replace(const Call& call) {
  const std::string from = call.needed(0, "old");
  if (from.empty()) call.fail("replace needs a text to look for");
  return call.made(
      replace_all(call.text(), from, call.needed(1, "new"), call.integer(2, "count", -1)));
}

Value end_of(const Call& call) {
  const auto all = call.items();
  return all.empty()            ? Value::undefined(call.name)
         : call.name == "first" ? all.front()
                                : all.back();
}

Value list(const Call& call) {
  auto all = call.items();
  if (call.name == "reverse") std::reverse(all.begin(), all.end());
  if (call.name == "reverse" && call.value.is_string()) {
    std::string out;
    for (const Value& item : all) out += item.json->get_ref<const std::string&>();
    return Value(out);
  }
  return list_of(all, call.fail);
}

Value unique(const Call& call) {
  const bool ignore_case = !call.flag(0, "case_sensitive", false);
  const auto attribute = call.string(1, "attribute");
  std::vector<Value> out, seen;
  for (const Value& item : call.items()) {
    Value key = judged(item, attribute);
    if (ignore_case && key.is_string())
      key = Value(lower_case(key.json->get_ref<const std::string&>()));
    if (std::any_of(seen.begin(), seen.end(),
                    [&](const Value& other) { return equal(other, key); }))
      continue;
    seen.push_back(key);
    out.push_back(item);
  }
  return list_of(out, call.fail);
}

void sort_by(std::vector<Value>& items, const std::optional<std::string>& attribute,
             bool ignore_case, bool reverse, const Fail& fail) {
  std::stable_sort(items.begin(), items.end(), [&](const Value& a, const Value& b) {
    const Value x = judged(a, attribute), y = judged(b, attribute);
    return reverse ? less(y, x, ignore_case, fail) : less(x, y, ignore_case, fail);
  });
}

Value sort(const Call& call) {
  auto all = call.items();
  sort_by(all, call.string(2, "attribute"), !call.flag(1, "case_sensitive", false),
          call.flag(0, "reverse", false), call.fail);
  return list_of(all, call.fail);
}

Value extreme(const Call& call) {
  auto all = call.items();
  sort_by(all, call.string(1, "attribute"), !call.flag(0, "case_sensitive", false),
          call.name == "max", call.fail);
  return all.empty() ? Value::undefined(call.name) : all.front();
}

Value sum(const Call& call) {
  const auto attribute = call.string(0, "attribute");
  int64_t whole = 0;
  double total = 0;
  bool real = false;
  for (const Value& item : call.items()) {
    const Value number = judged(item, attribute);
    if (number.json == nullptr || !number.json->is_number())
      call.fail("sum needs numbers, not " + kind_name(number));
    real = real || number.json->is_number_float();
    total += number.json->get<double>();
    if (number.json->is_number_integer() &&
        __builtin_add_overflow(whole, number.json->get<int64_t>(), &whole))
      call.fail("a number is too large");
  }
  return real ? Value(total) : Value(whole);
}

Value items(const Call& call) {
  if (call.value.is_undefined()) return Value(Json::array());
  if (call.value.json == nullptr || !call.value.json->is_object())
    call.fail(call.name + " needs an object, not " + kind_name(call.value));
  Json out = Json::array();
  for (const auto& [key, item] : call.value.json->items()) out.push_back(Json::array({key, item}));
  return Value(std::move(out));
}

Value dictsort(const Call& call) {
  auto pairs = elements(items(call), call.fail);
  const std::string by = call.string(1, "by").value_or("key");
  sort_by(pairs, by == "value" ? "1" : "0", !call.flag(0, "case_sensitive", false),
          call.flag(2, "reverse", false), call.fail);
  return list_of(pairs, call.fail);
}

std::optional<double> parse_number(const Value& value) {
  if (value.json == nullptr) return std::nullopt;
  if (value.json->is_boolean()) return value.json->get<bool>() ? 1 : 0;
  if (value.json->is_number()) return value.json->get<double>();
  if (!value.json->is_string()) return std::nullopt;
  const std::string text =
      strip(value.json->get_ref<const std::string&>(), std::nullopt, true, true);
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  return text.empty() || *end != '\0' ? std::nullopt : std::optional(number);
}

Value to_int(const Call& call) {
  if (call.value.json != nullptr && call.value.json->is_number_integer()) return call.value;
  if (call.value.is_string()) {
    const std::string text =
        strip(call.value.json->get_ref<const std::string&>(), std::nullopt, true, true);
    char* end = nullptr;
    const int64_t number =
        std::strtoll(text.c_str(), &end, static_cast<int>(call.integer(1, "base", 10)));
    if (!text.empty() && *end == '\0') return Value(number);
  }
  const auto number = parse_number(call.value);
  return number && std::abs(*number) < 9e18 ? Value(static_cast<int64_t>(*number))
                                            : Value(call.integer(0, "default", 0));
}

Value to_float(const Call& call) {
  const Value* other = call.find(0, "default");
  const auto number = parse_number(call.value);
  return Value(number ? *number : other == nullptr ? 0.0 : parse_number(*other).value_or(0.0));
}

Value absolute(const Call& call) {
  if (call.value.json == nullptr || !call.value.json->is_number())
    call.fail("abs of " + kind_name(call.value));
  if (call.value.json->is_number_float()) return Value(std::abs(call.value.json->get<double>()));
  const auto number = call.value.json->get<int64_t>();
  return number < 0 ? Value(static_cast<int64_t>(0 - static_cast<uint64_t>(number))) : call.value;
}

Value round(const Call& call) {
  const auto number = parse_number(call.value);
  if (!number) call.fail("round of " + kind_name(call.value));
  const std::string method = call.string(1, "method").value_or("common");
  const double scale = std::pow(
      10.0, static_cast<double>(std::clamp<int64_t>(call.integer(0, "precision", 0), -15, 15)));
  const double scaled = *number * scale;
  const double rounded = method == "ceil"    ? std::ceil(scaled)
                         : method == "floor" ? std::floor(scaled)
                                             : std::nearbyint(scaled);
  return Value(rounded / scale);
}

Value indent(const Call& call) {
  const Value* width = call.find(0, "width");
  std::string by = "    ";
  if (width != nullptr && width->is_string()) {
    by = width->json->get<std::string>();
  } else if (width != nullptr) {
    by.assign(static_cast<size_t>(std::clamp<int64_t>(to_integer(*width, call.fail), 0, kMaxWidth)),
              ' ');
  }
  return call.made(
      indent_lines(call.text(), by, call.flag(1, "first", false), call.flag(2, "blank", false)));
}

Value escape(const Call& call) {
  std::string out;
  for (const char c : call.text()) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return Value(out);
}

// The arguments behind the first `count`.
Arguments rest_of(const Arguments& arguments, size_t count) {
  Arguments rest;
  if (arguments.positional.size() > count)
    rest.positional.assign(arguments.positional.begin() + static_cast<std::ptrdiff_t>(count),
                           arguments.positional.end());
  return rest;
}

// selectattr, rejectattr, select, reject.
Value choose(const Call& call) {
  const bool by_attribute = call.name.ends_with("attr");
  const bool keep = call.name.starts_with("select");
  const size_t test_at = by_attribute ? 1 : 0;
  const auto attribute = by_attribute ? std::optional(call.needed(0, "")) : std::nullopt;
  const auto test = call.string(test_at, "");
  const Arguments rest = rest_of(call.arguments, test_at + 1);
  std::vector<Value> out;
  for (const Value& item : call.items()) {
    const Value subject = judged(item, attribute);
    if ((test ? apply_test(*test, subject, rest, call.fail) : truthy(subject)) == keep)
      out.push_back(item);
  }
  return list_of(out, call.fail);
}

Value map(const Call& call) {
  const auto found = call.arguments.named.find("attribute");
  const auto other = call.arguments.named.find("default");
  std::vector<Value> out;
  for (const Value& item : call.items()) {
    if (found != call.arguments.named.end()) {
      Value part = find_attribute(item, to_text(found->second, call.fail));
      if (part.is_undefined() && other != call.arguments.named.end()) part = other->second;
      out.push_back(std::move(part));
    } else {
      Arguments rest = rest_of(call.arguments, 1);
      rest.named = call.arguments.named;
      out.push_back(apply_filter(call.needed(0, ""), item, rest, call.fail));
    }
  }
  return list_of(out, call.fail);
}

using Filter = Value (*)(const Call&);

const std::unordered_map<std::string, Filter>& filters() {
  static const std::unordered_map<std::string, Filter> table = {
      {"abs", absolute},
      {"capitalize", [](const Call& c) { return Value(capitalize(c.text())); }},
      {"count", length},
      {"d", default_filter},
      {"default", default_filter},
      {"dictsort", dictsort},
      {"e", escape},
      {"escape", escape},
      {"first", end_of},
      {"float", to_float},
      {"indent", indent},
      {"int", to_int},
      {"items", items},
      {"join", join},
      {"last", end_of},
      {"length", length},
      {"list", list},
      {"lower", [](const Call& c) { return Value(lower_case(c.text())); }},
      {"map", map},
      {"max", extreme},
      {"min", extreme},
      {"reject", choose},
      {"rejectattr", choose},
      {"replace", replace},
      {"reverse", list},
      {"round", round},
      {"safe", [](const Call& c) { return Value(c.text()); }},
      {"select", choose},
      {"selectattr", choose},
      {"sort", sort},
      {"string", [](const Call& c) { return Value(c.text()); }},
      {"sum", sum},
      {"title", [](const Call& c) { return Value(title_words(c.text())); }},
      {"tojson", tojson},
      {"trim",
       [](const Call& c) { return Value(strip(c.text(), c.string(0, "chars"), true, true)); }},
      {"unique", unique},
      {"upper", [](const Call& c) { return Value(upper_case(c.text())); }},
  };
  return table;
}

}  // namespace

Value apply_filter(const std::string& name, const Value& value, const Arguments& arguments,
                   const Fail& fail) {
  const auto found = filters().find(name);
  if (found == filters().end()) fail("the filter '" + name + "' is not supported");
  return found->second({name, value, arguments, fail});
}

}  // namespace tessera::data::jinja
