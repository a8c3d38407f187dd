// Fused optimizer arithmetic on flat float32 ranges.
#pragma once

#include <cstdint>

namespace tessera::kernels {

struct AdamWStep {
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  int64_t step = 1;             // 1 for the first update: bias correction
  double gradient_scale = 1.0;  // clipping factor
};

/// One AdamW update (arXiv 1711.05101, algorithm 2, as in torch.optim.AdamW) of `count` elements.
void adamw(float* weight, const float* gradient, float* exp_avg, float* exp_avg_sq, int64_t count,
           const AdamWStep& step);

/// Sum of squares: short blocks in float32, the blocks in double. The order does not depend on the number of threads.
double sum_of_squares(const float* x, int64_t count);

}  // namespace tessera::kernels
