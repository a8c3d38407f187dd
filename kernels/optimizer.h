// Fused optimizer arithmetic on flat float32 ranges.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace tessera::kernels {

struct AdamWStep {
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  int64_t step = 1;             // 1 for the first update: bias correction
  double gradient_scale = 1.0;  // clipping factor
};

/// Moments of a range, float32 or bfloat16 (as DeepSeek-V3 keeps them, arXiv 2412.19437, section 3.3.3); the arithmetic is float32.
struct Moments {
  at::Tensor exp_avg, exp_avg_sq;        // [count], of one dtype
  const MomentNoise* noise = nullptr;    // stochastic rounding, of bfloat16 only; null: to the nearest
};

/// One AdamW update (arXiv 1711.05101, algorithm 2, as in torch.optim.AdamW) of `count` elements.
void adamw(float* weight, const float* gradient, const Moments& moments, int64_t count, const AdamWStep& step);

/// Sum of squares: short blocks in float32, the blocks in double. The order does not depend on the number of threads.
double sum_of_squares(const float* x, int64_t count);

}  // namespace tessera::kernels
