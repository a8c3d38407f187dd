// Book production: pages and signatures, deadlines, sentences by a style sheet.
#pragma once

#include "data/tasks/task.h"

namespace tessera::data {

[[nodiscard]] Task publishing_task();

}  // namespace tessera::data
