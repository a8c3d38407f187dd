// SwiGLU (arXiv 2002.05202): silu(gate) * up, with gate and up side by side in one tensor.
#pragma once

#include <ATen/core/Tensor.h>

namespace tessera::kernels {

/// gate_up: [T, 2F] float32, gate first. Returns [T, F]. No autograd.
at::Tensor swiglu(const at::Tensor& gate_up);

/// d_out: [T, F]. Returns the gradient of gate_up [T, 2F].
at::Tensor swiglu_backward(const at::Tensor& d_out, const at::Tensor& gate_up);

}  // namespace tessera::kernels
