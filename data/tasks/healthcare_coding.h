// Arrival codes of patients, the largest kind of healthcare. Private to data/tasks/.
#pragma once

#include "data/tasks/task.h"

namespace tessera::data {

[[nodiscard]] Problem arrival_coding(Draw& draw, int64_t difficulty);

}  // namespace tessera::data
