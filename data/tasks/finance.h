// Accounts payable: coding of expenses by the house's chart of accounts, gross amounts, due dates.
#pragma once

#include "data/tasks/task.h"

namespace tessera::data {

[[nodiscard]] Task finance_task();

}  // namespace tessera::data
