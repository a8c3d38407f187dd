// Farm planning: seed and fertiliser for a field, crop rotation, irrigation.
#pragma once

#include "data/tasks/task.h"

namespace tessera::data {

[[nodiscard]] Task agriculture_task();

}  // namespace tessera::data
