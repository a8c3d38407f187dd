// Learning-rate schedules.
#pragma once

#include "trainer/config.h"

namespace tessera::trainer {

/// Factor on optimizer.lr for `step` (from 0) of `steps`: linear warm-up to 1 at step warmup_steps, then constant, linear
/// or cosine to final_lr at the last step, or constant with a linear end phase (wsd).
[[nodiscard]] double lr_factor(const LrScheduleConfig& config, int64_t step, int64_t steps);

}  // namespace tessera::trainer
