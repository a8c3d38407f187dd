// Freight and spare parts: arrival times on a route, pallets of a shipment, parts that fit a car.
#pragma once

#include "data/tasks/task.h"

namespace tessera::data {

[[nodiscard]] Task logistics_task();

}  // namespace tessera::data
