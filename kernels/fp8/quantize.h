// The one quantiser: float32 matrices to 8-bit floating point with scales, or to bfloat16 without, and back (DeepSeek-V3, arXiv 2412.19437, section
// 3.3; docs/guides/fp8.md has the definition). An element x of a tile with scale s becomes the code nearest to x * (1 / s),
// ties to even, at most the largest; a code c means the float32 product c * s. NaN and infinity stay NaN (in E5M2 infinity
// stays infinity), so that a step with one is noticed, and do not disturb the rest of their tile.
//
// Rows can be quantised as they are made, a few at a time in cache: a RowSource makes them.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "kernels/fp8/format.h"

namespace tessera::kernels::fp8 {

struct Quantized {
  at::Tensor codes;   // [R, C] float8_e4m3fn, float8_e5m2 or bfloat16
  at::Tensor scales;  // float32, one a tile: [ceil(R / tile.rows), ceil(C / tile.columns)]; undefined in bfloat16
};

/// A matrix that is made in pieces: the address of the rows [begin, end), which may be `room` for so many rows or not. Called
/// from several threads.
struct RowSource {
  int64_t rows = 0, columns = 0;
  std::function<const float*(int64_t begin, int64_t end, float* room)> make;
};

/// x: [R, C] float32 with contiguous rows; it must outlive the source.
[[nodiscard]] RowSource rows_of(const at::Tensor& x);
/// Of tiles of whole rows or less (tile.rows 1), of the whole matrix, or in bfloat16.
[[nodiscard]] RowSource rows_of(const Quantized& x, const Scheme& scheme);

/// x: [R, C] float32, any tile.
[[nodiscard]] Quantized quantize(const at::Tensor& x, const Scheme& scheme);
/// One tile with a scale from elsewhere; codes alone.
[[nodiscard]] at::Tensor quantize_with(const at::Tensor& x, Format format, float scale);
/// float32 [R, C].
[[nodiscard]] at::Tensor dequantize(const Quantized& x, const Scheme& scheme);

/// dequantize(quantize(x)) in one pass, [R, C]; `codes`, if given, receives the quantised matrix.
[[nodiscard]] at::Tensor rounded(const RowSource& x, const Scheme& scheme, Quantized* codes = nullptr);
/// The same for tiles that begin anew at each of `starts` (ascending from 0, which is meant where it is empty): x as an operand
/// of a product that sums over its rows. One tile for all begins nowhere anew.
[[nodiscard]] at::Tensor rounded_along_rows(const RowSource& x, const Scheme& scheme, const std::vector<int64_t>& starts);
/// Of `matrices` stacked ones, [matrices R, C], each with tiles of its own.
[[nodiscard]] at::Tensor rounded_stack(const at::Tensor& x, const Scheme& scheme, int64_t matrices);

}  // namespace tessera::kernels::fp8
