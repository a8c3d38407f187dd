#include "moe/experts.h"

namespace tessera::moe {

namespace {

kernels::GroupedLinearSpec make_stack(int64_t experts, int64_t out, int64_t in, kernels::Prologue prologue) {
  return {kernels::make_parameter({experts * out, in}), experts, prologue};
}

}  // namespace

Experts::Experts(const MoeConfig& config, int64_t experts, int64_t dim)
    : gate_up_(make_stack(experts, 2 * config.intermediate_size, dim, kernels::Prologue::kNone)),
      down_(make_stack(experts, dim, config.intermediate_size, kernels::Prologue::kSwiglu)) {}

at::Tensor Experts::forward(const at::Tensor& rows, const std::vector<int64_t>& offsets, bool generation) const {
  return kernels::grouped_linear(kernels::grouped_linear(rows, gate_up_, offsets, generation), down_, offsets, generation);
}

}  // namespace tessera::moe
