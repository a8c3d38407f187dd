// Brings token rows to their experts and back, in three calls: dispatch, the experts, combine. Rows are in the order
// (expert, token), whatever brought them there. This one is for experts that are all on this rank.
//
// Legend: T tokens, D model dim, K choices a token, N = T K rows, E experts.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "kernels/permute.h"
#include "moe/router.h"

namespace tessera::moe {

/// What `combine` needs to undo a dispatch.
struct DispatchHandle {
  kernels::RowMapPtr map;
  at::Tensor weights;  // [T, K]
};

struct Dispatched {
  at::Tensor rows;               // [N, D]
  std::vector<int64_t> offsets;  // [E + 1]: expert e has the rows [offsets[e], offsets[e + 1])
  DispatchHandle handle;
};

class LocalDispatcher final {
 public:
  explicit LocalDispatcher(int64_t num_experts) : num_experts_(num_experts) {}

  /// x: [T, D].
  [[nodiscard]] Dispatched dispatch(const at::Tensor& x, const Routing& routing) const;
  /// rows: the experts' outputs [N, D] in dispatched order. Returns base [T, D] plus each token's weighted sum.
  [[nodiscard]] at::Tensor combine(const at::Tensor& rows, const DispatchHandle& handle, const at::Tensor& base) const;

 private:
  int64_t num_experts_;
};

}  // namespace tessera::moe
