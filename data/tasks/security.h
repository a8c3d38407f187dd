// Security operations: triage codes of alerts, risk scores, decisions of a firewall.
#pragma once

#include "data/tasks/task.h"

namespace tessera::data {

[[nodiscard]] Task security_task();

}  // namespace tessera::data
