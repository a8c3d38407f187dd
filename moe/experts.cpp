#include "moe/experts.h"

#include "kernels/fp8/operands.h"

namespace tessera::moe {

namespace {

kernels::GroupedLinearSpec make_stack(int64_t experts, int64_t out, int64_t in, kernels::Prologue prologue) {
  return {kernels::make_parameter({experts * out, in}), experts, prologue};
}

}  // namespace

Experts::Experts(const MoeConfig& config, int64_t experts, int64_t dim)
    : gate_up_(make_stack(experts, 2 * config.intermediate_size, dim, kernels::Prologue::kNone)),
      down_(make_stack(experts, dim, config.intermediate_size, kernels::Prologue::kSwiglu)) {}

at::Tensor Experts::forward(const at::Tensor& tokens, const kernels::RowMapPtr& map, const kernels::RowGroups& groups, kernels::PassKind kind) const {
  return kernels::grouped_linear(kernels::grouped_linear(tokens, map, gate_up_, groups, kind), down_, groups, kind);
}

void Experts::use_fp8(const kernels::fp8::Recipe& recipe) {
  for (auto* stack : {&gate_up_, &down_}) stack->fp8 = std::make_shared<kernels::fp8::Weight>(recipe, stack->experts);
}

}  // namespace tessera::moe
