// Token embedding.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/parameter.h"

namespace tessera::kernels {

/// ids: [T] int32; table: [V, D]. Returns [T, D]; the gradient is added to the table's rows in token order.
at::Tensor embedding(const at::Tensor& ids, const ParameterPtr& table);

}  // namespace tessera::kernels
