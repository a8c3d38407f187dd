// Products of FP8 operands by cuBLASLt, through LibTorch's _scaled_mm_v2: blocks on compute capability 9.0 (CUDA 12.9 and later), one scale
// for all on 8.9 and later. Whether this build and device do it right is tried once, on small operands of awkward sizes.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/fp8/quantize.h"

namespace tessera::kernels::cuda {

class ScaledProducts final {
 public:
  /// Tries what the current device can do, and logs it.
  ScaledProducts();

  /// a b^T [M, N] in float32 or bfloat16; undefined where the device cannot: the caller multiplies otherwise.
  [[nodiscard]] at::Tensor product(const fp8::Quantized& a, const fp8::Scheme& scheme_a, const fp8::Quantized& b, const fp8::Scheme& scheme_b,
                                   at::ScalarType type) const;

 private:
  bool by_block_ = false;  // 1x128 times 128x128
  bool by_tile_ = false;   // 1x128 times 1x128
  bool by_tensor_ = false;
};

}  // namespace tessera::kernels::cuda
