// Fused optimizer arithmetic on flat float32 ranges.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/cpu/kernel_table.h"

namespace tessera::kernels {

struct AdamWStep {
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  int64_t step = 1;             // 1 for the first update: bias correction
  double gradient_scale = 1.0;  // clipping factor
  /// What decay leaves of a weight.
  [[nodiscard]] float keep(double weight_decay) const { return 1.0f - static_cast<float>(lr) * static_cast<float>(weight_decay); }
};

/// What the update of every element takes; without decay.
[[nodiscard]] AdamWFactors factors_of(const AdamWStep& step);

/// Moments of a range, float32 or bfloat16 (as DeepSeek-V3 keeps them, arXiv 2412.19437, section 3.3.3); the arithmetic is float32.
struct Moments {
  at::Tensor exp_avg, exp_avg_sq;        // [count], of one dtype
  std::optional<MomentNoise> noise;      // stochastic rounding, of bfloat16 only; none: to the nearest
};

struct AdamWUpdate {
  at::Tensor weight, gradient;  // [count], contiguous, float32
  Moments moments;
  double weight_decay = 0;
};

/// AdamW (arXiv 1711.05101, algorithm 2, as in torch.optim.AdamW) of tensors on one device, with moments of one kind.
void adamw(const std::vector<AdamWUpdate>& updates, const AdamWStep& step);

/// Sum of the squares of all parts [count] on one device, a float64 scalar there: short blocks in float32, the blocks in double. The order does
/// not depend on the number of threads. `parts` must not be empty.
at::Tensor sum_of_squares(const std::vector<at::Tensor>& parts);

}  // namespace tessera::kernels
