#include "kernels/parameter.h"

#include <ATen/ops/empty.h>

#include "core/error.h"
#include "kernels/fp8/block_matrix.h"

namespace tessera::kernels {

ParameterPtr make_parameter(const std::vector<int64_t>& shape) {
  auto parameter = std::make_shared<Parameter>();
  parameter->value = at::empty(shape, at::kFloat);
  return parameter;
}

at::Tensor Parameter::values() const { return codes ? codes->values() : value; }

void move_to(Parameter& parameter, c10::Device device, at::ScalarType type) {
  if (parameter.codes) return parameter.codes->move(device, type);
  parameter.value = parameter.value.to(device).to(type);
}

void keep_codes(Parameter& parameter) {
  TESSERA_CHECK(!parameter.trainable() && parameter.value.dim() == 2, "codes of ", parameter.value.sizes());
  parameter.codes = std::make_shared<fp8::BlockMatrix>(parameter.value.size(0), parameter.value.size(1));
  parameter.value = at::empty(parameter.value.sizes(), at::TensorOptions(at::kFloat).device(at::kMeta));
}

}  // namespace tessera::kernels
