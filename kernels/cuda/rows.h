// Moving rows to their experts and back, and adding rows to chosen ones. Plain data: compiled by nvcc. All return at once.
//
// Legend: T tokens, D model dim, K choices a token, N rows.
#pragma once

#include <cstdint>

#include "kernels/cuda/elementwise.h"

namespace tessera::kernels::cuda {

/// out[n] = x[index[n] / divisor], rows of `row_bytes`.
void gather_rows(void* stream, const void* x, int64_t row_bytes, const int32_t* index, int64_t divisor, int64_t rows, void* out);

/// y[t] += sum over k, in order, of weights[t, k] rows[row_of[t, k]], less than 0: no row. weights: null for 1. y: [T, D] as rows.
void add_sums(Where where, const void* rows, const int32_t* row_of, const float* weights, int64_t tokens, int64_t choices, int64_t dim, void* y);

/// Of such a sum: d_rows[n] = weights[slot] dy[slot / K], d_weights[slot] = dy[slot / K] . rows[n], slot = slot_of[n].
struct SumsBackward {
  const void *dy = nullptr, *rows = nullptr;  // [T, D], [N, D]
  const float* weights = nullptr;             // [T, K]
  const int32_t* slot_of = nullptr;           // [N]
  int64_t choices = 1, count = 0, dim = 0;    // count: N
  void* d_rows = nullptr;
  float* d_weights = nullptr;
};
void sums_backward(Where where, const SumsBackward& job);

/// y[key[i]] += x[order[i]] in the order of i, keys ascending: the sum of a row's additions is the same every time. x: [., dim]; y: [., dim] as x,
/// or float32.
struct SortedRows {
  const void* x = nullptr;
  const int64_t *keys = nullptr, *order = nullptr;  // [count]
  int64_t count = 0, dim = 0;
  void* y = nullptr;
  bool y_float = false;
};
void add_sorted_rows(Where where, const SortedRows& job);

}  // namespace tessera::kernels::cuda
