// Logging: one line an event on standard error, prefixed with the rank where there are several. spdlog stays behind this
// header: LibTorch ships another version of the fmt headers it needs.
#pragma once

#include <string>

#include "core/error.h"

namespace tessera {

struct LogConfig {
  int rank = 0;
  int world_size = 1;
  bool quiet = false;  // warnings and errors only
};

/// Sets the logger up; called once, by launch/. Ranks above 0 log warnings and errors only.
void configure_logging(const LogConfig& config);

namespace log {

void write_info(const std::string& line);
void write_warning(const std::string& line);
void write_error(const std::string& line);

/// The parts are put together as by operator<<.
template <typename... Parts>
void info(const Parts&... parts) {
  write_info(detail::concat(parts...));
}
template <typename... Parts>
void warn(const Parts&... parts) {
  write_warning(detail::concat(parts...));
}
template <typename... Parts>
void error(const Parts&... parts) {
  write_error(detail::concat(parts...));
}

}  // namespace log

}  // namespace tessera
