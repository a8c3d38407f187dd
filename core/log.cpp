#include "core/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

namespace tessera {

void configure_logging(const LogConfig& config) {
  auto logger = spdlog::stderr_color_mt("tessera");
  const std::string rank = config.world_size > 1 ? "rank " + std::to_string(config.rank) + " " : "";
  logger->set_pattern("%H:%M:%S " + rank + "%^%l%$ %v");
  logger->set_level(config.quiet || config.rank > 0 ? spdlog::level::warn : spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

namespace log {

void write_info(const std::string& line) { spdlog::info("{}", line); }
void write_warning(const std::string& line) { spdlog::warn("{}", line); }
void write_error(const std::string& line) { spdlog::error("{}", line); }

}  // namespace log

}  // namespace tessera
