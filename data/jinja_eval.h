// Runs a parsed chat template.
#pragma once

#include <map>
#include <string>

#include "data/jinja_ast.h"
#include "data/jinja_value.h"

namespace tessera::data::jinja {

/// The text that the template makes of the variables. Steps, nesting and output are bounded. Throws
/// ConfigError "name:line: ..." on a mistake in the template and where it calls raise_exception.
[[nodiscard]] std::string render(const Node& program, const std::map<std::string, Value>& variables,
                                 const std::string& name);

}  // namespace tessera::data::jinja
