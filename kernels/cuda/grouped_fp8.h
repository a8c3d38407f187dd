// Products of many experts at once in FP8: CUTLASS's grouped kernels for compute capability 9.0, which sum in float32 and apply the scales every 128
// numbers. Forward and for the rows' gradient a scale is one for each 1 x 128 of the rows and each 128 x 128 of the weights; for the weights'
// gradient, which sums over an expert's rows, for each 1 x 128 of both. Plain data: compiled by nvcc alone.
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
  void* workspace = nullptr;        // grouped_fp8_workspace(experts) bytes
  void* stream = nullptr;           // cudaStream_t
};

/// Returns at once; null, or what is wrong.
[[nodiscard]] const char* grouped_fp8(const GroupedFp8& product);

/// gradient_e += dy_e^T u_e, of lines whose columns [offsets[e], offsets[e + 1]) are group e's, all multiples of 128 and no group empty
/// (quantize.h's ExpertRows). out and in are multiples of 16.
struct GroupedFp8Gradient {
  const void* dy = nullptr;           // [out, padded] E4M3
  const float* dy_scales = nullptr;   // [padded / 128, out]
  const void* u = nullptr;            // [in, padded]
  const float* u_scales = nullptr;    // [padded / 128, in]
  const int32_t* offsets = nullptr;   // [experts + 1]
  float* gradient = nullptr;          // [experts out, in]
  int64_t padded = 0, out = 0, in = 0;
  int32_t experts = 0;
  void* workspace = nullptr;
  void* stream = nullptr;
};
[[nodiscard]] const char* grouped_fp8_gradient(const GroupedFp8Gradient& product);

/// Bytes of either's workspace, which is aligned to 256.
[[nodiscard]] size_t grouped_fp8_workspace(int32_t experts);

}  // namespace tessera::kernels::cuda
