// Root-mean-square layer normalisation (arXiv 1910.07467): y = x / sqrt(mean(x^2) + eps) * w.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/parameter.h"

namespace tessera::kernels {

/// x: [T, D], w: [D], float32. Returns y [T, D]; fills `rstd` [T] when given. No autograd.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, float eps, at::Tensor* rstd = nullptr);

/// Returns dx [T, D]; adds the weight's gradient to `dw` [D] when defined.
at::Tensor rms_norm_backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& w, const at::Tensor& rstd,
                             const at::Tensor& dw);

/// The norm as a layer of its own, with autograd, where several layers share its output.
at::Tensor rms_norm_layer(const at::Tensor& x, const ParameterPtr& weight, float eps);

}  // namespace tessera::kernels
