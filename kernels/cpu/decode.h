// Products of few rows, which read each weight once, and the attention of one query token. Included by isa.cpp only.
#pragma once

#include "kernels/cpu/attention.h"

namespace tessera::kernels::TESSERA_ISA {

/// y[m, n] (+)= sum_k x[m, k] w[n, k]; rows of x, w and y lie ldx, ldw and ldy floats apart.
struct DotProducts {
  const float* x;
  int64_t ldx;
  const float* w;
  int64_t ldw;
  int64_t k;
  float* y;
  int64_t ldy;
  bool accumulate;
};

constexpr int64_t kPrefetchRows = 4;

/// MR rows of x from m0 times NR rows of w from n0. Prefetch: w comes from memory, so the next rows are asked for.
template <int MR, int NR, bool Prefetch>
inline void dot_block(const DotProducts& p, int64_t m0, int64_t n0) {
  constexpr int kSums = (MR * NR + kWidth - 1) / kWidth * kWidth;
  Vec acc[kSums] = {};
  const float *x = p.x + m0 * p.ldx, *w = p.w + n0 * p.ldw;
  const int64_t whole = p.k / kWidth * kWidth;
  for (int64_t i = 0; i < whole; i += kWidth) {
    Vec wv[NR];
#pragma GCC unroll 8
    for (int n = 0; n < NR; ++n) {
      wv[n] = load(w + n * p.ldw + i);
      if constexpr (Prefetch) __builtin_prefetch(w + (kPrefetchRows + n) * p.ldw + i);
    }
#pragma GCC unroll 8
    for (int m = 0; m < MR; ++m) {
      Vec xv = load(x + m * p.ldx + i);
      keep_in_register(xv);  // otherwise it is loaded again for each n, and loads are the limit
#pragma GCC unroll 8
      for (int n = 0; n < NR; ++n) acc[m * NR + n] += xv * wv[n];
    }
  }
  if (whole < p.k) {
    Vec wv[NR];
    for (int n = 0; n < NR; ++n) wv[n] = load_partial(w + n * p.ldw + whole, p.k - whole);
    for (int m = 0; m < MR; ++m) {
      const Vec xv = load_partial(x + m * p.ldx + whole, p.k - whole);
      for (int n = 0; n < NR; ++n) acc[m * NR + n] += xv * wv[n];
    }
  }
  float sums[kSums];
#pragma GCC unroll 8
  for (int i = 0; i < kSums; i += static_cast<int>(kWidth)) store(sums + i, lane_sums(acc + i));
#pragma GCC unroll 8
  for (int m = 0; m < MR; ++m) {
    float* y = p.y + (m0 + m) * p.ldy + n0;
    if (p.accumulate)
      for (int n = 0; n < NR; ++n) sums[m * NR + n] += y[n];
    std::memcpy(y, sums + m * NR, NR * sizeof(float));
  }
}

#if TESSERA_VECTOR_BYTES == 64
// 4 x 4 or 8 x 2 accumulators, then vectors of w and of x, of 32 registers: eight rows ask as much of memory as they compute.
constexpr int kDotRows = 8, kDotColumns = 4;
#else
constexpr int kDotRows = 4, kDotColumns = 2;
#endif

/// MR rows of x with rows [n_begin, n_end) of w; the first rows of x bring w into the cache.
template <int MR, bool Prefetch>
inline void dot_group(const DotProducts& p, int64_t m, int64_t n_begin, int64_t n_end) {
  constexpr int kColumns = MR > 4 ? 2 : kDotColumns;
  int64_t n = n_begin;
  for (; n + kColumns <= n_end; n += kColumns) dot_block<MR, kColumns, Prefetch>(p, m, n);
  for (; n < n_end; ++n) dot_block<MR, 1, Prefetch>(p, m, n);
}

template <bool Prefetch, int MR = kDotRows>
inline void dot_rows(const DotProducts& p, int64_t m, int64_t rows, int64_t n_begin, int64_t n_end) {
  if constexpr (MR > 0) {
    if (rows - m >= MR) return dot_group<MR, Prefetch>(p, m, n_begin, n_end);
    return dot_rows<Prefetch, MR - 1>(p, m, rows, n_begin, n_end);
  }
}

/// A group of rows of x stays in the first-level cache while it meets a panel of w, which stays in the second; k is cut
/// to that end. A row's result does not depend on how many others there are.
inline void dot_products(const DotProducts& p, int64_t rows, int64_t n_begin, int64_t n_end) {
  constexpr int64_t kPanel = 8 * kDotColumns, kLongest = 576;
  const int64_t parts = (p.k + kLongest - 1) / kLongest;
  const int64_t length = padded((p.k + parts - 1) / parts);
  for (int64_t n = n_begin; n < n_end; n += kPanel) {
    const int64_t end = std::min(n + kPanel, n_end);
    for (int64_t k = 0; k < p.k; k += length) {
      const DotProducts part = {p.x + k, p.ldx, p.w + k, p.ldw, std::min(length, p.k - k), p.y, p.ldy, k > 0};
      dot_rows<true>(part, 0, rows, n, end);
      for (int64_t m = kDotRows; m < rows; m += kDotRows) dot_rows<false>(part, m, rows, n, end);
    }
  }
}

inline void few_rows_product(const float* x, int64_t rows, int64_t k, const float* w, int64_t n_begin, int64_t n_end,
                             float* y, int64_t ldy) {
  dot_products({x, k, w, k, k, y, ldy, false}, rows, n_begin, n_end);
}

inline const float* rows_of(const CachedRun& run) { return static_cast<const float*>(run.rows); }

/// Asks for the keys and values of one head in a run of the cache: rows lie apart, so that nobody else will.
inline void prefetch_run(const CachedRun& run, int64_t stride, int64_t begin, int64_t count) {
  for (int64_t r = 0; r < run.count; ++r)
    for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(rows_of(run) + r * stride + begin + i, 0, 2);
}

inline void attention_decode(const float* q, int64_t group, int64_t qk_dim, const CachedRun* runs, int64_t num_runs, int64_t stride,
                             int64_t key_begin, int64_t value_begin, int64_t v_dim, float scale, float* out, float* scratch) {
  int64_t num_keys = 0;
  for (int64_t r = 0; r < num_runs; ++r) num_keys += runs[r].count;
  const int64_t ld = padded(num_keys);
  int64_t begin = 0;
  for (int64_t r = 0; r < num_runs; begin += runs[r++].count) {
    if (r + 1 < num_runs) prefetch_run(runs[r + 1], stride, key_begin, qk_dim);
    prefetch_run(runs[r], stride, value_begin, v_dim);
    dot_products({q, qk_dim, rows_of(runs[r]) + key_begin, stride, qk_dim, scratch + begin, ld, false}, group, 0, runs[r].count);
  }
  for (int64_t g = 0; g < group; ++g) {
    float* scores = scratch + g * ld;
    for (int64_t j = num_keys; j < ld; ++j) scores[j] = -INFINITY;
    Vec best = load(scores);
    for (int64_t j = kWidth; j < ld; j += kWidth) best = vmax(best, load(scores + j));
    const float maximum = horizontal_max(best);
    Vec sum{};
    for (int64_t j = 0; j < ld; j += kWidth) {
      const Vec e = vexp((load(scores + j) - maximum) * scale);
      store(scores + j, e);
      sum += e;
    }
    const Vec inverse = broadcast(1.0f / horizontal_sum(sum));
    for (int64_t j = 0; j < ld; j += kWidth) store(scores + j, load(scores + j) * inverse);
  }
  begin = 0;
  for (int64_t r = 0; r < num_runs; begin += runs[r++].count)
    product({group, v_dim, runs[r].count, scratch + begin, ld, 1, rows_of(runs[r]) + value_begin, stride, out, v_dim, r > 0});
}

}  // namespace tessera::kernels::TESSERA_ISA
