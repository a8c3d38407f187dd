// School administration: weighted grades, free times in timetables, subjects to resit.
#pragma once

#include "data/tasks/task.h"

namespace tessera::data {

[[nodiscard]] Task education_task();

}  // namespace tessera::data
