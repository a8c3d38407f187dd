// Linears in FP8 on devices: as operands.h has them, but with operands that are codes and scales in memory, and products that take them so.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/grouped_gemm.h"
#include "kernels/linear.h"
#include "kernels/permute.h"

namespace tessera::kernels::fp8 {

/// linear() of a spec with `fp8`. `anchor`: the value of a parameter that is trained, if any is. Tiles along tokens do not begin anew at rows:
/// they do where rows are whole tiles long.
at::Tensor device_linear(const at::Tensor& x, const LinearSpec& spec, const at::Tensor& residual, const at::Tensor& anchor);

/// grouped_linear() of a spec with `fp8`; with a `map` x are tokens, whose codes are gathered.
at::Tensor device_grouped_linear(const at::Tensor& x, const RowMapPtr& map, const GroupedLinearSpec& spec, const RowGroups& groups);

}  // namespace tessera::kernels::fp8
