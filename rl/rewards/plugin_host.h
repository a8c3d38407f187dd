// The child process that loads a reward plug-in (plugin.h) and speaks JSON lines (line_program.h).
#pragma once

#include <string>

namespace tessera::rl {

/// Answers the requests on standard input until it ends; returns the exit status. Throws Error when
/// the library cannot be loaded or was made for another interface.
int run_plugin_host(const std::string& library);

}  // namespace tessera::rl
