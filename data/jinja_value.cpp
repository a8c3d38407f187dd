#include "data/jinja_value.h"

#include <algorithm>

#include "core/error.h"
#include "data/unicode.h"

namespace tessera::data::jinja {

const Value* Arguments::find(size_t index, const char* name) const {
  if (index < positional.size()) return &positional[index];
  const auto found = named.find(name);
  return found == named.end() ? nullptr : &found->second;
}

bool truthy(const Value& value) {
  if (value.space != nullptr) return true;
  if (value.json == nullptr || value.json->is_null()) return false;
  const Json& json = *value.json;
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number()) return json.get<double>() != 0;
  if (json.is_string()) return !json.get_ref<const std::string&>().empty();
  return !json.empty();
}

std::string kind_name(const Value& value) {
  if (value.space != nullptr) return "a namespace";
  if (value.json == nullptr)
    return value.missing.empty() ? "an undefined value" : "undefined '" + value.missing + "'";
  return json_kind(*value.json);
}

bool equal(const Value& a, const Value& b) {
  if (a.json == nullptr || b.json == nullptr) return a.is_undefined() && b.is_undefined();
  return *a.json == *b.json;
}

namespace {
std::string quoted(const std::string& text) {
  const char quote =
      text.find('\'') != std::string::npos && text.find('"') == std::string::npos ? '"' : '\'';
  std::string out(1, quote);
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else {
      if (c == '\\' || c == quote) out += '\\';
      out += c;
    }
  }
  return out + quote;
}

std::string python_text(const Json& value, bool nested) {
  if (value.is_null()) return "None";
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  if (value.is_string())
    return nested ? quoted(value.get<std::string>()) : value.get<std::string>();
  if (!value.is_structured()) return value.dump();
  std::string out = value.is_array() ? "[" : "{";
  bool first = true;
  for (const auto& [key, item] : value.items()) {
    if (!first) out += ", ";
    first = false;
    if (value.is_object()) out += quoted(key) + ": ";
    out += python_text(item, true);
  }
  return out + (value.is_array() ? "]" : "}");
}
}  // namespace

std::string to_text(const Value& value, const Fail& fail) {
  if (value.space != nullptr) fail("a namespace cannot be printed");
  return value.json == nullptr ? "" : python_text(*value.json, false);
}

std::string dump_json(const Json& value, int indent, int depth) {
  if (!value.is_structured()) return value.dump(-1, ' ', false, Json::error_handler_t::replace);
  const bool array = value.is_array();
  if (value.empty()) return array ? "[]" : "{}";
  const std::string newline =
      indent < 0 ? "" : "\n" + std::string(static_cast<size_t>(indent * (depth + 1)), ' ');
  std::string out = array ? "[" : "{";
  bool first = true;
  for (const auto& [key, item] : value.items()) {
    if (!first) out += indent < 0 ? ", " : ",";
    first = false;
    out += newline;
    if (!array) out += Json(key).dump(-1, ' ', false, Json::error_handler_t::replace) + ": ";
    out += dump_json(item, indent, depth + 1);
  }
  if (indent >= 0) out += "\n" + std::string(static_cast<size_t>(indent * depth), ' ');
  return out + (array ? "]" : "}");
}

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t i = 0; i < text.size();) {
    const size_t length = std::min<size_t>(decode_utf8(text.data() + i).length, text.size() - i);
    out.push_back(text.substr(i, length));
    i += length;
  }
  return out;
}

std::string strip(std::string_view text, const Value* chars, bool left, bool right) {
  const auto all = characters(text);
  std::vector<std::string_view> wanted;
  const bool any_space = chars == nullptr || !chars->is_string();
  if (!any_space) wanted = characters(chars->json->get_ref<const std::string&>());
  const auto matches = [&](std::string_view c) {
    if (!any_space) return std::find(wanted.begin(), wanted.end(), c) != wanted.end();
    const uint32_t value = decode_utf8(c.data()).value;
    return char_classes()[value] == kSpace ||
           (value >= 0x1C && value <= 0x1F);  // Python's str.isspace
  };
  size_t begin = 0, end = all.size();
  while (left && begin < end && matches(all[begin])) ++begin;
  while (right && end > begin && matches(all[end - 1])) --end;
  if (begin == end) return "";
  return std::string(
      all[begin].data(),
      static_cast<size_t>(all[end - 1].data() + all[end - 1].size() - all[begin].data()));
}

std::vector<Value> elements(const Value& value, const Fail& fail) {
  std::vector<Value> out;
  if (value.is_undefined()) return out;
  if (value.json == nullptr || (!value.json->is_structured() && !value.json->is_string())) {
    fail(kind_name(value) + " cannot be iterated");
  }
  if (value.json->is_array()) {
    for (const Json& item : *value.json) out.push_back(value.part(item));
  } else if (value.json->is_object()) {
    for (const auto& [key, item] : value.json->items()) out.emplace_back(Json(key));
  } else {
    for (const auto& c : characters(value.json->get_ref<const std::string&>()))
      out.emplace_back(Json(std::string(c)));
  }
  return out;
}

int64_t to_integer(const Value& value, const Fail& fail) {
  if (!value.is_integer()) fail(kind_name(value) + " where an integer is needed");
  return value.json->is_boolean() ? value.json->get<bool>() : value.json->get<int64_t>();
}

const std::string& to_string(const Value& value, const char* what, const Fail& fail) {
  if (!value.is_string())
    fail(tessera::detail::concat(what, " needs a string, not ", kind_name(value)));
  return value.json->get_ref<const std::string&>();
}

}  // namespace tessera::data::jinja
