// A model parameter and where its gradient goes. Layers that own parameters are autograd Functions of their own: the
// gradient of their input flows through autograd, the gradient of the parameter is added straight into `gradient`, a view
// of a flat bucket, and `on_gradient` tells the owner of the bucket.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <vector>

namespace tessera::kernels {

struct Parameter {
  at::Tensor value;                   // float32, contiguous
  at::Tensor gradient;                // same shape, float32; undefined: frozen
  std::function<void()> on_gradient;  // called after each addition; may be empty

  [[nodiscard]] bool trainable() const { return gradient.defined(); }
  void gradient_added() const {
    if (on_gradient) on_gradient();
  }
};
using ParameterPtr = std::shared_ptr<Parameter>;

/// Frozen; allocated but not touched, so that memory is spent only when it is filled.
[[nodiscard]] ParameterPtr make_parameter(const std::vector<int64_t>& shape);

}  // namespace tessera::kernels
