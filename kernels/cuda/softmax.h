// The softmax of a row of logits by a block of threads. For nvcc.
#pragma once

#include "kernels/cuda/launch.h"

namespace tessera::kernels::cuda {

/// Of some numbers x: their largest, and the sums of exp(x - largest) and x exp(x - largest).
struct Spread {
  float largest = -INFINITY, sum = 0.0f, weighted = 0.0f;
};

/// Of `count` logits times `factor`, in one sweep: a number above the largest so far rescales the sums.
template <typename T, int N>
__device__ Spread spread_of(const T* logits, int64_t count, float factor) {
  Spread mine;
  for (int64_t i = Block::lane() * N; i < count; i += Block::kLanes * N) {
    const Pack<T, N> pack = load<N>(logits + i);
    float largest = mine.largest;
    for (int j = 0; j < N; ++j) {
      const float x = widen(pack.x[j]) * factor;
      if (!(x <= largest)) largest = x;  // or NaN, which the sum then is
    }
    if (largest == -INFINITY) continue;
    const float scale = expf(mine.largest - largest);
    mine = {largest, mine.sum * scale, mine.weighted * scale};
    for (int j = 0; j < N; ++j) {
      const float x = widen(pack.x[j]) * factor, e = expf(x - largest);
      mine.sum += e;
      mine.weighted += e == 0.0f ? 0.0f : x * e;
    }
  }
  const float largest = Block::max(mine.largest);
  const float scale = mine.largest == -INFINITY ? 0.0f : expf(mine.largest - largest);
  return {largest, Block::sum(mine.sum * scale), Block::sum(mine.weighted * scale)};
}

}  // namespace tessera::kernels::cuda
