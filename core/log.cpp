#include "core/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

namespace tessera {

void configure_logging(const LogConfig& config) {
  auto logger = spdlog::stderr_color_mt("tessera");
  const std::string rank = config.world_size > 1 ? "rank " + std::to_string(config.rank) + " " : "";
  logger->set_pattern("%H:%M:%S " + rank + "%^%l%$ %v");
  logger->set_level(config.quiet || config.rank > 0 ? spdlog::level::warn : spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace tessera
