#include "moe/dispatcher.h"

namespace tessera::moe {

namespace {

/// A stable counting sort of the choices by expert.
kernels::RowMapPtr sort_by_expert(const at::Tensor& experts, int64_t num_experts, std::vector<int64_t>& offsets) {
  auto map = std::make_shared<kernels::RowMap>();
  map->tokens = experts.size(0);
  map->choices = experts.size(1);
  const int32_t* expert = experts.const_data_ptr<int32_t>();
  const auto count = static_cast<size_t>(experts.numel());
  offsets.assign(static_cast<size_t>(num_experts) + 1, 0);
  for (size_t slot = 0; slot < count; ++slot) ++offsets[static_cast<size_t>(expert[slot]) + 1];
  for (size_t e = 1; e < offsets.size(); ++e) offsets[e] += offsets[e - 1];
  std::vector<int64_t> next(offsets.begin(), offsets.end() - 1);
  map->row_of.resize(count);
  map->slot_of.resize(count);
  for (size_t slot = 0; slot < count; ++slot) {
    const int64_t row = next[static_cast<size_t>(expert[slot])]++;
    map->row_of[slot] = row;
    map->slot_of[static_cast<size_t>(row)] = static_cast<int64_t>(slot);
  }
  return map;
}

}  // namespace

Dispatched LocalDispatcher::dispatch(const at::Tensor& x, const Routing& routing) const {
  Dispatched dispatched;
  dispatched.handle.map = sort_by_expert(routing.experts, num_experts_, dispatched.offsets);
  dispatched.handle.weights = routing.weights;
  dispatched.rows = kernels::gather_rows(x, dispatched.handle.map);
  return dispatched;
}

at::Tensor LocalDispatcher::combine(const at::Tensor& rows, const DispatchHandle& handle, const at::Tensor& base) const {
  return kernels::combine_rows(rows, handle.weights, base, handle.map);
}

}  // namespace tessera::moe
