// In what rows of float32 numbers travel between ranks. Rounding twice is rounding once: rows that arrived may be handed on, or be
// operands of products in FP8, without another loss.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace tessera::kernels {

struct RowFormat {
  enum class Kind : uint8_t {
    kFloat32,
    kBfloat16,  // to the nearest, ties to even
    kFp8,       // E4M3 with a scale for each 1 x 128 (DeepSeek-V3, arXiv 2412.19437, section 3.2.2): the scales in front of the codes
  };
  Kind kind = Kind::kFloat32;
  bool power_of_two_scales = false;

  [[nodiscard]] bool rounds() const { return kind != Kind::kFloat32; }
};

/// Memory for packed rows of `columns` numbers: [rows, .], float32, bfloat16 or bytes. `options` say where, and with a device of kMeta
/// that there is none.
[[nodiscard]] at::Tensor packed_room(int64_t rows, int64_t columns, RowFormat format, const at::TensorOptions& options);
/// rows: [N, D] float32, on a device as activations are there, contiguous; in float32 they are the result.
[[nodiscard]] at::Tensor pack(const at::Tensor& rows, RowFormat format);
/// Into `rows` [N, D], of what they were; not for float32.
void unpack(const at::Tensor& packed, RowFormat format, const at::Tensor& rows);

/// The rows as they are behind the way, with the gradient's rounded for the way back. Differentiable.
[[nodiscard]] at::Tensor as_if_sent(const at::Tensor& rows, RowFormat there, RowFormat back);

}  // namespace tessera::kernels
