// Production: tolerance chains, release codes of batches, schedules with changeovers.
#pragma once

#include "data/tasks/task.h"

namespace tessera::data {

[[nodiscard]] Task manufacturing_task();

}  // namespace tessera::data
