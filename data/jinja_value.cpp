#include "data/jinja_value.h"

#include <algorithm>

#include "core/error.h"
#include "data/jinja_text.h"
#include "data/unicode.h"

namespace tessera::data::jinja {

const Value* Arguments::find(size_t index, const char* name) const {
  if (index < positional.size()) return &positional[index];
  const auto found = named.find(name);
  return found == named.end() ? nullptr : &found->second;
}

bool truthy(const Value& value) {
  if (value.space != nullptr || value.is_callable()) return true;
  if (value.json == nullptr || value.json->is_null()) return false;
  const Json& json = *value.json;
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number()) return json.get<double>() != 0;
  if (json.is_string()) return !json.get_ref<const std::string&>().empty();
  return !json.empty();
}

std::string kind_name(const Value& value) {
  if (value.space != nullptr) return "a namespace";
  if (value.is_callable()) return "a function";
  if (value.json == nullptr)
    return value.missing.empty() ? "an undefined value" : "undefined '" + value.missing + "'";
  return json_kind(*value.json);
}

bool equal(const Value& a, const Value& b) {
  if (a.json == nullptr || b.json == nullptr) return a.is_undefined() && b.is_undefined();
  const auto as_number = [](const Json& json) {
    return json.is_boolean() ? Json(json.get<bool>() ? 1 : 0) : json;
  };
  if (a.json->is_boolean() != b.json->is_boolean()) return as_number(*a.json) == as_number(*b.json);
  return *a.json == *b.json;
}

bool less(const Value& a, const Value& b, bool ignore_case, const Fail& fail) {
  if (a.is_string() && b.is_string()) {
    const std::string &x = a.json->get_ref<const std::string&>(),
                      &y = b.json->get_ref<const std::string&>();
    return ignore_case ? lower_case(x) < lower_case(y) : x < y;
  }
  const auto is_number = [](const Value& v) {
    return v.json != nullptr && (v.json->is_number() || v.json->is_boolean());
  };
  if (is_number(a) && is_number(b)) {
    if (a.json->is_number_integer() && b.json->is_number_integer()) return *a.json < *b.json;
    const auto number = [](const Json& j) {
      return j.is_boolean() ? (j.get<bool>() ? 1.0 : 0.0) : j.get<double>();
    };
    return number(*a.json) < number(*b.json);
  }
  if (a.json == nullptr || b.json == nullptr || !a.json->is_array() || !b.json->is_array())
    fail(kind_name(a) + " and " + kind_name(b) + " have no order");
  const size_t size = std::min(a.json->size(), b.json->size());
  for (size_t i = 0; i < size; ++i) {
    const Value x = a.part((*a.json)[i]), y = b.part((*b.json)[i]);
    if (!equal(x, y)) return less(x, y, ignore_case, fail);
  }
  return a.json->size() < b.json->size();
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
  if (value.space != nullptr || value.is_callable()) fail(kind_name(value) + " cannot be printed");
  return value.json == nullptr ? "" : python_text(*value.json, false);
}

std::string dump_json(const Json& value, const JsonStyle& style, size_t depth) {
  const auto scalar = [&](const Json& json) {
    return json.dump(-1, ' ', style.ensure_ascii, Json::error_handler_t::replace);
  };
  if (!value.is_structured()) return scalar(value);
  const bool array = value.is_array();
  if (value.empty()) return array ? "[]" : "{}";
  const auto newline = [&](size_t level) {
    std::string out;
    if (!style.indent) return out;
    out = '\n';
    for (size_t i = 0; i < level; ++i) out += *style.indent;
    return out;
  };
  std::vector<std::pair<std::string, const Json*>> items;
  for (const auto& [key, item] : value.items()) items.emplace_back(key, &item);
  if (!array && style.sort_keys) std::sort(items.begin(), items.end());
  std::string out = array ? "[" : "{";
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += style.comma;
    out += newline(depth + 1);
    if (!array) out += scalar(Json(items[i].first)) + style.colon;
    out += dump_json(*items[i].second, style, depth + 1);
  }
  return out + newline(depth) + (array ? "]" : "}");
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

Value find_attribute(const Value& value, const std::string& path) {
  Value at = value;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t dot = std::min(path.find('.', begin), path.size());
    const std::string name = path.substr(begin, dot - begin);
    begin = dot + 1;
    const bool index = !name.empty() && name.size() < 9 &&
                       name.find_first_not_of("0123456789") == std::string::npos;
    Value next = Value::undefined(name);
    if (at.space != nullptr) {
      if (const auto found = at.space->find(name); found != at.space->end()) next = found->second;
    } else if (at.json != nullptr && at.json->is_object()) {
      if (const auto found = at.json->find(name); found != at.json->end()) next = at.part(*found);
    } else if (at.json != nullptr && at.json->is_array() && index &&
               std::stoul(name) < at.json->size()) {
      next = at.part((*at.json)[std::stoul(name)]);
    }
    at = std::move(next);
  }
  return at;
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
