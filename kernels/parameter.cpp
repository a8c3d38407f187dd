#include "kernels/parameter.h"

#include <ATen/ops/empty.h>

namespace tessera::kernels {

ParameterPtr make_parameter(const std::vector<int64_t>& shape) {
  auto parameter = std::make_shared<Parameter>();
  parameter->value = at::empty(shape, at::kFloat);
  return parameter;
}

}  // namespace tessera::kernels
