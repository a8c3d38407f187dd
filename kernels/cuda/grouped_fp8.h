// Products of many experts at once in FP8: CUTLASS's grouped kernel for compute capability 9.0 with a scale for each 1 x 128 of the rows and
// each 128 x 128 of the weights, which sums in float32 and applies the scales every 128 numbers. Plain data: compiled by nvcc alone.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tessera::kernels::cuda {

/// y[r] = W_e x[r] for the rows r in [offsets[e], offsets[e + 1]), all in the device's memory. in and out are multiples of 16.
struct GroupedFp8 {
  const void* x = nullptr;          // [rows, in] E4M3
  const float* x_scales = nullptr;  // [rows, ceil(in / 128)]
  const void* w = nullptr;          // [experts out, in] E4M3
  const float* w_scales = nullptr;  // [experts ceil(out / 128), ceil(in / 128)]: each expert's own blocks
  const int32_t* offsets = nullptr; // [experts + 1]
  void* y = nullptr;                // [rows, out] bfloat16
  int64_t rows = 0, out = 0, in = 0;
  int32_t experts = 0;
  void* workspace = nullptr;        // grouped_fp8_workspace(experts) bytes, aligned to 256
  void* stream = nullptr;           // cudaStream_t
};

[[nodiscard]] size_t grouped_fp8_workspace(int32_t experts);
/// Returns at once; null, or what is wrong.
[[nodiscard]] const char* grouped_fp8(const GroupedFp8& product);

}  // namespace tessera::kernels::cuda
