// NVIDIA GPUs: LibTorch's own operations where they are the fastest there are (products, grouped products, flash attention), and for the
// rest what TensorAccelerator does.
#pragma once

#include "kernels/tensor_accelerator.h"

namespace tessera::kernels::cuda {

/// Lives as long as the program.
[[nodiscard]] const Accelerator& accelerator();

}  // namespace tessera::kernels::cuda
