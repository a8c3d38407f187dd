// The optimizer's arithmetic over many tensors in one launch. Plain data: compiled by nvcc. All return at once.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/kernel_table.h"

namespace tessera::kernels::cuda {

struct Update {
  float* weight = nullptr;
  const float* gradient = nullptr;
  void *exp_avg = nullptr, *exp_avg_sq = nullptr;  // float32 or bfloat16
  int64_t count = 0;
  float keep = 1.0f;  // in place of AdamWFactors::keep
  MomentNoise noise;  // of stochastic rounding
};
struct UpdateTerms {
  AdamWFactors factors;
  bool narrow = false;      // moments in bfloat16
  bool stochastic = false;  // rounded so
};
void adamw(void* stream, const UpdateTerms& terms, const std::vector<Update>& updates);

struct Numbers {
  const float* x = nullptr;
  int64_t count = 0;
};
/// total receives the sum of squares of all. partial: [square_parts(all)].
void sum_of_squares(void* stream, const std::vector<Numbers>& all, double* partial, double* total);
[[nodiscard]] int64_t square_parts(const std::vector<Numbers>& all);

}  // namespace tessera::kernels::cuda
