// The child process that makes the sandboxes: it has one thread and little memory, so it may fork,
// which a rank under MPI may not. It speaks JSON lines (line_program.h) and works on several
// requests at a time.
//
// Request: {"id", "command", "code", "runs": [{"input", "output"?}], "marker", limits..}. A run
// passes when the program exits with 0 and, where "output" is given, prints that up to blanks at
// the ends of lines; where "marker" is not empty, when its last line is the marker. Answer: {"id",
// "reward": 1 or 0, "detail"} or {"id", "error"}. A request without runs only tries the sandbox and
// the command: {"id", "reward": 1} or {"id", "error"}.
#pragma once

#include <nlohmann/json.hpp>

#include "rl/rewards/sandbox.h"

namespace tessera::rl {

/// Works until standard input ends; returns the exit status.
int run_sandbox_server();

/// One request's answer, without the id. Forks (sandbox.h).
[[nodiscard]] nlohmann::json run_code_request(const nlohmann::json& request);

/// Requests that are worked on at a time: the cores this process may use, eight at most.
[[nodiscard]] int num_sandboxes();

}  // namespace tessera::rl
