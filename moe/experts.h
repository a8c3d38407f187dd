// The routed experts of a layer: SwiGLU MLPs, stacked in memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "kernels/fp8/recipe.h"
#include "kernels/grouped_gemm.h"
#include "moe/config.h"

namespace tessera::moe {

class Experts final {
 public:
  /// Allocates gate_up [E 2I, D] (of each expert the gate's rows, then up's) and down [E D, I] for E experts of this rank.
  Experts(const MoeConfig& config, int64_t experts, int64_t dim);

  /// tokens: [., D], which `map` makes rows sorted by expert. Returns rows [N, D]. `kind`: see kernels::grouped_linear.
  [[nodiscard]] at::Tensor forward(const at::Tensor& tokens, const kernels::RowMapPtr& map, const kernels::RowGroups& groups,
                                   kernels::PassKind kind = kernels::PassKind::kTraining) const;
  /// From now on products in training are in FP8.
  void use_fp8(const kernels::fp8::Recipe& recipe);

  [[nodiscard]] const kernels::ParameterPtr& gate_up() const { return gate_up_.weight; }
  [[nodiscard]] const kernels::ParameterPtr& down() const { return down_.weight; }

 private:
  kernels::GroupedLinearSpec gate_up_, down_;
};

}  // namespace tessera::moe
