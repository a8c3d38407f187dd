// The quantisers of activations and gradients, E4M3 with a scale for each 128 numbers; to the bits of fp8/quantize.h. Plain data: compiled by nvcc.
#pragma once

#include <cstdint>

namespace tessera::kernels::cuda {

struct Quantize {
  const void* x = nullptr;  // [rows, columns], contiguous
  bool bfloat16 = false;    // else float32
  int64_t rows = 0, columns = 0;
  uint8_t* codes = nullptr;
  float* scales = nullptr;
  bool power_of_two_scales = false;
  void* stream = nullptr;   // cudaStream_t
};

/// Tiles of 1 x 128. codes: [rows, columns]; scales: [rows, ceil(columns / 128)]. Returns at once.
void quantize_rows(const Quantize& job);
/// Tiles of 128 x 1, transposed. codes: [columns, rows]; scales: [columns, ceil(rows / 128)].
void quantize_tokens(const Quantize& job);

}  // namespace tessera::kernels::cuda
