// A second solver of every kind of problem, which reads the prompt and nothing else: prompts and answers cannot drift
// apart.
#pragma once

#include <string>

namespace tessera::data::solvers {

/// Throws if the prompt cannot be read. `task` and `kind` exist.
std::string solve(const std::string& task, const std::string& kind, const std::string& prompt);

std::string solve_healthcare(const std::string& kind, const std::string& prompt);
std::string solve_finance(const std::string& kind, const std::string& prompt);
std::string solve_manufacturing(const std::string& kind, const std::string& prompt);
std::string solve_agriculture(const std::string& kind, const std::string& prompt);
std::string solve_education(const std::string& kind, const std::string& prompt);
std::string solve_security(const std::string& kind, const std::string& prompt);
std::string solve_logistics(const std::string& kind, const std::string& prompt);
std::string solve_publishing(const std::string& kind, const std::string& prompt);

}  // namespace tessera::data::solvers
