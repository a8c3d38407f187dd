// The operands of a linear's three products in FP8, as the float32 numbers that their codes times scales stand for; products
// sum in float32 (DeepSeek-V3, arXiv 2412.19437, section 3.3 and figure 6):
//
//   fprop  y  = u w^T     u by row       w
//   dgrad  du = dy w      dy by row      w
//   wgrad  dw += dy^T u   dy by token    u by token, where tiles run along tokens
//
// Legend: T tokens, I in, O out, F width of a SwiGLU.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "kernels/fp8/quantize.h"
#include "kernels/fp8/recipe.h"
#include "kernels/parameter.h"
#include "kernels/prologue.h"

namespace tessera::kernels::fp8 {

/// The quantised twin of the weight of a linear, or of several stacked ones: [matrices O, I], made anew when the weight has
/// changed, so once a step. It takes the memory of a second float32 weight, as only an emulation does. A weight that is kept as codes
/// is its own twin.
class Weight final {
 public:
  explicit Weight(Recipe recipe, int64_t matrices = 1) : recipe_(std::move(recipe)), matrices_(matrices) {}

  [[nodiscard]] const Recipe& recipe() const { return recipe_; }
  /// `weight` must be whole (Parameter::await), and the same at each call.
  [[nodiscard]] at::Tensor of(const Parameter& weight);

  /// On a device, whose memory has the weight: codes as products take them, of w and of w^T, or of each in a stack.
  struct OnDevice {
    Quantized by_row, by_column;
  };
  [[nodiscard]] const OnDevice& on_device(const Parameter& weight);

 private:
  /// Whether what was made is of the weight as it is; if not, it is about to be made.
  bool is_current(const Parameter& weight);

  Recipe recipe_;
  int64_t matrices_;
  OnDevice on_device_;
  bool made_ = false;
  at::Tensor value_;
  uint64_t version_ = 0, tensor_version_ = 0;
};

/// A linear's input and what stands in front of it: u = prologue(x).
struct InFront {
  Prologue prologue = Prologue::kNone;
  const Parameter* norm = nullptr;
  float eps = 0;
};

/// What a linear keeps of its input for the backward pass. With a norm in front, which is not in FP8 and needs its input as it
/// was: that. Else one byte an element and the scales: of x, or of a SwiGLU's gates and ups as rows [2T, F].
struct SavedInput {
  at::Tensor x, rstd;
  Quantized quantized;
};

/// u by row [T, I]. x: [T, I], or [T, 2F] with kSwiglu. `saved`, if given, receives what the functions below need.
[[nodiscard]] at::Tensor input_by_row(const at::Tensor& x, const InFront& front, const Recipe& recipe, SavedInput* saved);
/// The same again from what was kept (behind a SwiGLU not to the bit).
[[nodiscard]] at::Tensor input_by_row(const SavedInput& saved, const InFront& front, const Recipe& recipe);
/// u by token [T, I]. `starts`: tokens at which tiles begin anew.
[[nodiscard]] at::Tensor input_by_token(const SavedInput& saved, const InFront& front, const Recipe& recipe, const std::vector<int64_t>& starts);
/// Gradient of a SwiGLU's gates and ups [T, 2F] from that of its output [T, F].
[[nodiscard]] at::Tensor swiglu_gradient(const at::Tensor& du, const SavedInput& saved, const Recipe& recipe);

[[nodiscard]] inline at::Tensor gradient_by_row(const at::Tensor& dy, const Recipe& recipe) { return rounded(rows_of(dy), recipe.gradient_by_row()); }
[[nodiscard]] inline at::Tensor gradient_by_token(const at::Tensor& dy, const Recipe& recipe, const std::vector<int64_t>& starts) {
  return rounded_along_rows(rows_of(dy), recipe.gradient_by_token(), starts);
}

}  // namespace tessera::kernels::fp8
