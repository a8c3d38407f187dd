#include "moe/experts.h"

#include <ATen/ops/empty.h>

namespace tessera::moe {

namespace {

kernels::GroupedLinearSpec make_stack(int64_t experts, int64_t out, int64_t in, kernels::Prologue prologue) {
  auto parameter = std::make_shared<kernels::Parameter>();
  parameter->value = at::empty({experts * out, in}, at::kFloat);
  return {parameter, experts, prologue};
}

}  // namespace

Experts::Experts(const MoeConfig& config, int64_t dim)
    : gate_up_(make_stack(config.num_experts, 2 * config.intermediate_size, dim, kernels::Prologue::kNone)),
      down_(make_stack(config.num_experts, dim, config.intermediate_size, kernels::Prologue::kSwiglu)) {}

at::Tensor Experts::forward(const at::Tensor& rows, const std::vector<int64_t>& offsets) const {
  return kernels::grouped_linear(kernels::grouped_linear(rows, gate_up_, offsets), down_, offsets);
}

}  // namespace tessera::moe
