// Operators of the template language, on values.
#pragma once

#include <optional>
#include <string>

#include "data/jinja_value.h"

namespace tessera::data::jinja {

/// not, + and -.
[[nodiscard]] Value unary(const std::string& op, const Value& value, const Fail& fail);
/// ~ + - * / // % **
[[nodiscard]] Value arithmetic(const std::string& op, const Value& left, const Value& right,
                               const Fail& fail);
/// == != < <= > >= in, not in
[[nodiscard]] bool compare(const std::string& op, const Value& left, const Value& right,
                           const Fail& fail);
/// value[index]
[[nodiscard]] Value subscript(const Value& value, const Value& index, const Fail& fail);
/// Python's slice of a list or a string.
[[nodiscard]] Value slice(const Value& value, std::optional<int64_t> start,
                          std::optional<int64_t> stop, int64_t step, const Fail& fail);
/// value.name
[[nodiscard]] Value attribute(const Value& value, const std::string& name, const Fail& fail);
/// range(..)
[[nodiscard]] Value range(const Arguments& given, const Fail& fail);

}  // namespace tessera::data::jinja
