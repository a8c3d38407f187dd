#include "data/jinja_operators.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "data/jinja_text.h"

namespace tessera::data::jinja {

namespace {

constexpr int64_t kMaxRange = 100'000;
constexpr size_t kMaxRepeated = 1 << 20;

bool is_number(const Value& value) {
  return value.json != nullptr && (value.json->is_number() || value.json->is_boolean());
}
bool is_list(const Value& value) { return value.json != nullptr && value.json->is_array(); }
double real(const Value& value) {
  return value.json->is_boolean() ? (value.json->get<bool>() ? 1 : 0) : value.json->get<double>();
}
int64_t whole(const Value& value) {
  return value.json->is_boolean() ? (value.json->get<bool>() ? 1 : 0) : value.json->get<int64_t>();
}

Value real_arithmetic(const std::string& op, double x, double y) {
  if (op == "+") return Value(x + y);
  if (op == "-") return Value(x - y);
  if (op == "*") return Value(x * y);
  if (op == "//") return Value(std::floor(x / y));
  if (op == "**") return Value(std::pow(x, y));
  return Value(x - std::floor(x / y) * y);
}

int64_t power(int64_t base, int64_t exponent, bool& overflow) {
  if (base == 0 || base == 1) return exponent == 0 ? 1 : base;
  if (base == -1) return exponent % 2 == 0 ? 1 : -1;
  int64_t result = 1;
  for (int64_t i = 0; i < exponent && !overflow; ++i)
    overflow = __builtin_mul_overflow(result, base, &result);
  return result;
}

Value whole_arithmetic(const std::string& op, int64_t a, int64_t b, const Fail& fail) {
  int64_t result = 0;
  bool overflow = false;
  if (op == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (op == "**") {
    if (b < 0) return Value(std::pow(static_cast<double>(a), static_cast<double>(b)));
    result = power(a, b, overflow);
  } else if (b == -1) {
    overflow = op == "//" && __builtin_sub_overflow(int64_t{0}, a, &result);
  } else {
    int64_t quotient = a / b, rest = a % b;
    if (rest != 0 && (rest < 0) != (b < 0)) {
      --quotient;
      rest += b;
    }
    result = op == "//" ? quotient : rest;
  }
  if (overflow) fail("a number is too large");
  return Value(result);
}

// "ab" * 3 and [1] * 3
Value repeated(const Value& value, int64_t count, const Fail& fail) {
  const size_t times = static_cast<size_t>(std::max<int64_t>(0, count));
  const size_t size =
      value.is_string() ? value.json->get_ref<const std::string&>().size() : value.json->size();
  if (times > 0 && size > kMaxRepeated / times) fail("'*' makes a value that is too large");
  std::string text;
  Json list = Json::array();
  for (size_t i = 0; i < times; ++i) {
    if (value.is_string()) {
      text += value.json->get_ref<const std::string&>();
    } else {
      list.insert(list.end(), value.json->begin(), value.json->end());
    }
  }
  return value.is_string() ? Value(text) : Value(std::move(list));
}

bool contains(const Value& container, const Value& item, const Fail& fail) {
  if (container.is_string()) {
    return container.json->get_ref<const std::string&>().find(
               to_string(item, "'in' a string", fail)) != std::string::npos;
  }
  if (container.json != nullptr && container.json->is_object()) {
    return item.is_string() && container.json->contains(item.json->get_ref<const std::string&>());
  }
  const auto all = elements(container, fail);
  return std::any_of(all.begin(), all.end(),
                     [&](const Value& element) { return equal(element, item); });
}

}  // namespace

Value unary(const std::string& op, const Value& value, const Fail& fail) {
  if (op == "not") return Value(!truthy(value));
  if (!is_number(value)) fail("'" + op + "' of " + kind_name(value));
  if (op == "+") return value;
  if (value.json->is_number_float()) return Value(-value.json->get<double>());
  return Value(static_cast<int64_t>(0 - static_cast<uint64_t>(whole(value))));
}

Value arithmetic(const std::string& op, const Value& left, const Value& right, const Fail& fail) {
  if (op == "~") return Value(to_text(left, fail) + to_text(right, fail));
  if (op == "+" && left.is_string() && right.is_string())
    return Value(left.json->get<std::string>() + right.json->get_ref<const std::string&>());
  if (op == "+" && is_list(left) && is_list(right)) {
    Json list = *left.json;
    list.insert(list.end(), right.json->begin(), right.json->end());
    return Value(std::move(list));
  }
  if (op == "*" && (left.is_string() || is_list(left)) && right.is_integer())
    return repeated(left, whole(right), fail);
  if (op == "*" && (right.is_string() || is_list(right)) && left.is_integer())
    return repeated(right, whole(left), fail);
  if (!is_number(left) || !is_number(right))
    fail("'" + op + "' between " + kind_name(left) + " and " + kind_name(right));
  if ((op == "/" || op == "//" || op == "%") && real(right) == 0) fail("division by zero");
  if (op == "/") return Value(real(left) / real(right));
  if (left.json->is_number_float() || right.json->is_number_float())
    return real_arithmetic(op, real(left), real(right));
  return whole_arithmetic(op, whole(left), whole(right), fail);
}

bool compare(const std::string& op, const Value& left, const Value& right, const Fail& fail) {
  if (op == "==") return equal(left, right);
  if (op == "!=") return !equal(left, right);
  if (op == "in") return contains(right, left, fail);
  if (op == "not in") return !contains(right, left, fail);
  const bool ordered = (left.is_string() && right.is_string()) ||
                       (is_number(left) && is_number(right)) || (is_list(left) && is_list(right));
  if (!ordered) fail("'" + op + "' between " + kind_name(left) + " and " + kind_name(right));
  if (op == "<") return less(left, right, false, fail);
  if (op == "<=") return !less(right, left, false, fail);
  return op == ">" ? less(right, left, false, fail) : !less(left, right, false, fail);
}

Value attribute(const Value& value, const std::string& name, const Fail& fail) {
  if (value.is_undefined()) fail("'" + name + "' of " + kind_name(value));
  if (value.space != nullptr) {
    const auto found = value.space->find(name);
    return found == value.space->end() ? Value::undefined(name) : found->second;
  }
  if (value.json != nullptr && value.json->is_object()) {
    if (const auto found = value.json->find(name); found != value.json->end())
      return value.part(*found);
  }
  return Value::undefined(name);
}

Value subscript(const Value& value, const Value& index, const Fail& fail) {
  if (index.is_string()) return attribute(value, index.json->get_ref<const std::string&>(), fail);
  if (value.json == nullptr) fail("an element of " + kind_name(value));
  if (!index.is_integer()) return Value::undefined("element");
  int64_t i = to_integer(index, fail);
  if (value.is_string()) {
    const auto all = characters(value.json->get_ref<const std::string&>());
    if (i < 0) i += static_cast<int64_t>(all.size());
    return i < 0 || i >= static_cast<int64_t>(all.size())
               ? Value::undefined("element")
               : Value(std::string(all[static_cast<size_t>(i)]));
  }
  if (!value.json->is_array()) return Value::undefined("element");
  if (i < 0) i += static_cast<int64_t>(value.json->size());
  if (i < 0 || i >= static_cast<int64_t>(value.json->size()))
    return Value::undefined("element " + std::to_string(i));
  return value.part((*value.json)[static_cast<size_t>(i)]);
}

Value slice(const Value& value, std::optional<int64_t> start, std::optional<int64_t> stop,
            int64_t step, const Fail& fail) {
  if (value.is_undefined()) return Value(Json::array());
  if (!value.is_string() && !is_list(value)) fail("a slice of " + kind_name(value));
  if (step == 0 || step < -kMaxRange || step > kMaxRange) fail("a slice's step");
  const auto all = elements(value, fail);
  const auto size = static_cast<int64_t>(all.size());
  const auto clamp = [&](int64_t i) {
    if (i < 0) i = std::max<int64_t>(i, -size - 1) + size;
    return step > 0 ? std::clamp<int64_t>(i, 0, size) : std::clamp<int64_t>(i, -1, size - 1);
  };
  const int64_t from = start ? clamp(*start) : step > 0 ? 0 : size - 1;
  const int64_t to = stop ? clamp(*stop) : step > 0 ? size : -1;
  Json list = Json::array();
  std::string text;
  for (int64_t i = from; step > 0 ? i < to : i > to; i += step) {
    const Value& item = all[static_cast<size_t>(i)];
    value.is_string() ? void(text += item.json->get_ref<const std::string&>())
                      : list.push_back(*item.json);
  }
  return value.is_string() ? Value(text) : Value(std::move(list));
}

Value range(const Arguments& given, const Fail& fail) {
  if (given.positional.empty() || given.positional.size() > 3)
    fail("range() takes one to three arguments");
  std::vector<int64_t> numbers;
  for (const Value& value : given.positional) {
    numbers.push_back(to_integer(value, fail));
    if (std::abs(numbers.back()) > 1'000'000'000) fail("range() of a number this large");
  }
  const int64_t start = numbers.size() > 1 ? numbers[0] : 0;
  const int64_t stop = numbers.size() > 1 ? numbers[1] : numbers[0];
  const int64_t step = numbers.size() > 2 ? numbers[2] : 1;
  if (step == 0 || std::abs((stop - start) / step) > kMaxRange)
    fail("range() of more than 100000 numbers");
  Json list = Json::array();
  for (int64_t i = start; step > 0 ? i < stop : i > stop; i += step) list.push_back(i);
  return Value(std::move(list));
}

}  // namespace tessera::data::jinja
