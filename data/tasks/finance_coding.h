// Booking codes of invoices, the largest kind of finance. Private to data/tasks/.
#pragma once

#include "data/tasks/task.h"

namespace tessera::data {

[[nodiscard]] Problem invoice_coding(Draw& draw, int64_t difficulty);

}  // namespace tessera::data
