// Logging: one line an event on standard error, prefixed with the rank where there are several.
#pragma once

#include <spdlog/spdlog.h>

namespace tessera {

struct LogConfig {
  int rank = 0;
  int world_size = 1;
  bool quiet = false;  // warnings and errors only
};

/// Sets spdlog's default logger up; called once, by launch/. Ranks above 0 log warnings and errors only.
void configure_logging(const LogConfig& config);

namespace log = spdlog;

}  // namespace tessera
