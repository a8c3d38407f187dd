#include "trainer/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tessera::trainer {

double lr_factor(const LrScheduleConfig& config, int64_t step, int64_t steps) {
  if (step < config.warmup_steps) return static_cast<double>(step + 1) / static_cast<double>(config.warmup_steps + 1);
  // Position in the decaying part: 0 at its first step, 1 at the last step of the run.
  const auto progress = [&](int64_t first) {
    const int64_t length = std::max<int64_t>(1, steps - 1 - first);
    return std::clamp(static_cast<double>(step - first) / static_cast<double>(length), 0.0, 1.0);
  };
  const double span = 1.0 - config.final_lr;
  if (config.name == "linear") return 1.0 - span * progress(config.warmup_steps);
  if (config.name == "cosine")
    return config.final_lr + span * 0.5 * (1.0 + std::cos(std::numbers::pi * progress(config.warmup_steps)));
  if (config.name == "wsd") {
    const int64_t decay = config.decay_steps > 0 ? config.decay_steps : std::max<int64_t>(1, steps / 10);
    const int64_t first = std::max(config.warmup_steps, steps - 1 - decay);
    return step <= first ? 1.0 : 1.0 - span * progress(first);
  }
  return 1.0;
}

}  // namespace tessera::trainer
