// The quantisers of activations, gradients and weights, E4M3, to the bits of fp8/quantize.h, and back. Plain data: compiled by nvcc. All return
// at once.
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

/// Tiles of 1 x 128. codes: [rows, columns]; scales: [rows, ceil(columns / 128)].
void quantize_rows(const Quantize& job);

/// Rows of each expert, whose columns are padded with zeros to whole tiles, at least one.
struct ExpertRows {
  const int32_t* offsets = nullptr;  // [experts + 1]; null: all rows are one's, without padding
  int32_t experts = 1;
  int64_t padded = 0;                // padded_rows(rows, experts)
};
/// A bound of the padded rows of all experts, whatever the numbers of each.
[[nodiscard]] constexpr int64_t padded_rows(int64_t rows, int64_t experts) { return (rows / 128 + experts) * 128; }
/// Tiles of 128 x 1, transposed. codes: [columns, rows]; scales: [columns, ceil(rows / 128)]. Of experts: codes [columns, padded], scales
/// [padded / 128, columns], each expert's tiles behind the one's before it; what lies behind the last is not written.
void quantize_tokens(const Quantize& job, const ExpertRows& experts = {});

/// Tiles of 128 x 128 of `matrices` stacked ones, each with its own. codes: [matrices R, C], or with `transposed` [matrices C, R]; scales the same
/// in tiles.
void quantize_blocks(const Quantize& job, int64_t matrices, bool transposed);

/// codes times scales of tiles of tile_rows x tile_columns, in float32 or bfloat16: x is what is written.
struct Dequantize {
  const uint8_t* codes = nullptr;  // [rows, columns]
  const float* scales = nullptr;   // [., ceil(columns / tile_columns)]
  int64_t rows = 0, columns = 0, tile_rows = 1, tile_columns = 128;
  void* x = nullptr;
  bool bfloat16 = false;
  void* stream = nullptr;
};
void dequantize(const Dequantize& job);

}  // namespace tessera::kernels::cuda
