// Hospital administration: coding of arrival records by the house's table, dose orders, ends of infusions.
#pragma once

#include "data/tasks/task.h"

namespace tessera::data {

[[nodiscard]] Task healthcare_task();

}  // namespace tessera::data
