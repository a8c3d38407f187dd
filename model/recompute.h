// Activation recomputation: a part of a layer keeps its input only, and the backward pass computes the rest again. The same
// kernels on the same input, so gradients are the same to the bit.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace tessera::model {

/// body(x, again): [T, .] to [T, .], differentiable; `again` in the backward pass, where nothing may be counted twice. What
/// it refers to must outlive the backward pass.
using RecomputedBody = std::function<at::Tensor(const at::Tensor& x, bool again)>;
[[nodiscard]] at::Tensor recomputed(const at::Tensor& x, RecomputedBody body);

}  // namespace tessera::model
