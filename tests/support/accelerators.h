// Accelerators that stand in for the CPU's kernels: tensor operations, and CUDA kernels that a CPU runs in a GPU's place.
#pragma once

#include <string>
#include <vector>

#include "kernels/tensor_accelerator.h"
#ifdef TESSERA_EMULATED
#include "kernels/cuda/kernel_accelerator.h"
#endif

namespace tessera::test {

inline const std::vector<const char*> kAccelerators = {"operations",
#ifdef TESSERA_EMULATED
                                                       "kernels"
#endif
};

inline const kernels::Accelerator* accelerator_named(const std::string& name) {
  static const kernels::TensorAccelerator operations(at::kCPU);
#ifdef TESSERA_EMULATED
  static const kernels::cuda::KernelAccelerator emulated(at::kCPU);
  if (name == "kernels") return &emulated;
#endif
  return &operations;
}

/// While it lives, CPU tensors go through an accelerator.
class InPlaceOfTheCpu {
 public:
  explicit InPlaceOfTheCpu(const std::string& name) { kernels::set_accelerator(at::kCPU, accelerator_named(name)); }
  ~InPlaceOfTheCpu() { kernels::set_accelerator(at::kCPU, nullptr); }
};

}  // namespace tessera::test
