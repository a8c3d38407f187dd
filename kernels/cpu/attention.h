// Attention over segments. Included by isa.cpp only.
//
// Scores of a block of queries are held whole (block x keys), so the softmax is the plain two-pass one; the products run
// on a register-blocked kernel that broadcasts the left operand (any strides) and streams rows of the right one.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd.h"

namespace tessera::kernels::TESSERA_ISA {

constexpr int64_t kQueryBlock = 64;

/// C[M, N] (+)= A[M, K] B[K, N]; A(i, k) = a[i * a_row + k * a_col], rows of B and C contiguous.
struct Product {
  int64_t m, n, k;
  const float* a;
  int64_t a_row, a_col;
  const float* b;
  int64_t ldb;
  float* c;
  int64_t ldc;
  bool accumulate;
};

template <int MR, int NV>
inline void micro_kernel(const Product& p, int64_t i0, int64_t j0) {
  Vec acc[MR][NV] = {};
  const float* a = p.a + i0 * p.a_row;
  const float* b = p.b + j0;
  for (int64_t k = 0; k < p.k; ++k) {
    Vec row[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) row[v] = load(b + v * kWidth);
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
      const Vec x = broadcast(a[i * p.a_row]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) acc[i][v] += x * row[v];
    }
    a += p.a_col;
    b += p.ldb;
  }
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
    float* c = p.c + (i0 + i) * p.ldc + j0;
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v)
      store(c + v * kWidth, p.accumulate ? load(c + v * kWidth) + acc[i][v] : acc[i][v]);
  }
}

#if TESSERA_VECTOR_BYTES == 64
constexpr int kMicroRows = 8;  // 8 x 2 accumulators of 32 registers
#else
constexpr int kMicroRows = 4;  // 4 x 2 of 16
#endif

template <int NV>
inline void column_panel(const Product& p, int64_t j0) {
  int64_t i = 0;
  for (; i + kMicroRows <= p.m; i += kMicroRows) micro_kernel<kMicroRows, NV>(p, i, j0);
  for (; i + 4 <= p.m; i += 4) micro_kernel<4, NV>(p, i, j0);
  switch (p.m - i) {
    case 3: return micro_kernel<3, NV>(p, i, j0);
    case 2: return micro_kernel<2, NV>(p, i, j0);
    case 1: return micro_kernel<1, NV>(p, i, j0);
    default: return;
  }
}

inline void product(const Product& p) {
  int64_t j = 0;
  for (; j + 2 * kWidth <= p.n; j += 2 * kWidth) column_panel<2>(p, j);
  for (; j + kWidth <= p.n; j += kWidth) column_panel<1>(p, j);
  for (; j < p.n; ++j) {
    for (int64_t i = 0; i < p.m; ++i) {
      float sum = 0;
      for (int64_t k = 0; k < p.k; ++k) sum += p.a[i * p.a_row + k * p.a_col] * p.b[k * p.ldb + j];
      float& c = p.c[i * p.ldc + j];
      c = p.accumulate ? c + sum : sum;
    }
  }
}

inline int64_t padded(int64_t n) { return (n + kWidth - 1) / kWidth * kWidth; }

/// Transposes the rows of all key ranges into packed[E, ld], zeros behind the last key.
inline void pack_transposed(const float* x, const AttentionTask& t, int64_t ld, int64_t keys, float* packed) {
  int64_t column = 0;
  for (int64_t range = 0; range < t.num_ranges; ++range) {
    for (int64_t j = 0; j < t.range_length[range]; ++j, ++column) {
      const float* row = x + (t.range_start[range] + j) * t.token_stride;
      for (int64_t e = 0; e < t.head_dim; ++e) packed[e * ld + column] = row[e];
    }
  }
  for (int64_t e = 0; e < t.head_dim; ++e)
    for (int64_t j = keys; j < ld; ++j) packed[e * ld + j] = 0;
}

inline int64_t count_keys(const AttentionTask& t) {
  int64_t keys = 0;
  for (int64_t range = 0; range < t.num_ranges; ++range) keys += t.range_length[range];
  return keys;
}

/// Runs body(first key, number of keys, first token) over the parts of the ranges below `limit` keys.
template <typename Body>
inline void for_each_range(const AttentionTask& t, int64_t limit, const Body& body) {
  int64_t first = 0;
  for (int64_t range = 0; range < t.num_ranges && first < limit; ++range) {
    body(first, std::min(t.range_length[range], limit - first), t.range_start[range]);
    first += t.range_length[range];
  }
}

/// scores[rows, ld] = scaled q k^T for keys [0, limit).
inline void block_scores(const AttentionTask& t, const float* q, int64_t rows, const float* packed_k, int64_t ld,
                         int64_t limit, float* scores) {
  product({rows, padded(limit), t.head_dim, q, t.token_stride, 1, packed_k, ld, scores, ld, false});
}

inline void attention(const AttentionTask& t, float* scratch) {
  const int64_t keys = count_keys(t), ld = padded(keys), before = keys - t.num_queries;
  float* packed_k = scratch;
  float* scores = packed_k + t.head_dim * ld;
  pack_transposed(t.k, t, ld, keys, packed_k);
  for (int64_t head = 0; head < t.group; ++head) {
    for (int64_t q0 = 0; q0 < t.num_queries; q0 += kQueryBlock) {
      const int64_t rows = std::min(kQueryBlock, t.num_queries - q0), limit = before + q0 + rows;
      block_scores(t, t.q + head * t.head_dim + q0 * t.token_stride, rows, packed_k, ld, limit, scores);
      float inverse[kQueryBlock];
      for (int64_t i = 0; i < rows; ++i) {
        float* s = scores + i * ld;
        const int64_t visible = before + q0 + i + 1;
        for (int64_t j = visible; j < padded(visible); ++j) s[j] = -INFINITY;
        Vec best = load(s);
        for (int64_t j = kWidth; j < visible; j += kWidth) best = vmax(best, load(s + j));
        const float maximum = horizontal_max(best);
        Vec sum{};
        for (int64_t j = 0; j < visible; j += kWidth) {
          const Vec e = vexp((load(s + j) - maximum) * t.scale);
          store(s + j, e);
          sum += e;
        }
        for (int64_t j = padded(visible); j < limit; ++j) s[j] = 0;
        const float total = horizontal_sum(sum);
        inverse[i] = 1.0f / total;
        if (t.lse != nullptr) t.lse[head * t.lse_stride + q0 + i] = maximum * t.scale + std::log(total);
      }
      float* out = t.out + head * t.head_dim + q0 * t.out_stride;
      bool first_range = true;
      for_each_range(t, limit, [&](int64_t first, int64_t count, int64_t token) {
        product({rows, t.head_dim, count, scores + first, ld, 1, t.v + token * t.token_stride, t.token_stride, out,
                 t.out_stride, !first_range});
        first_range = false;
      });
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t e = 0; e < t.head_dim; ++e) out[i * t.out_stride + e] *= inverse[i];
    }
  }
}

inline void attention_backward(const AttentionTask& t, float* scratch) {
  const int64_t keys = count_keys(t), ld = padded(keys), before = keys - t.num_queries;
  float* packed_k = scratch;
  float* packed_v = packed_k + t.head_dim * ld;
  float* p = packed_v + t.head_dim * ld;
  float* ds = p + kQueryBlock * ld;
  pack_transposed(t.k, t, ld, keys, packed_k);
  pack_transposed(t.v, t, ld, keys, packed_v);
  for (int64_t head = 0; head < t.group; ++head) {
    for (int64_t q0 = 0; q0 < t.num_queries; q0 += kQueryBlock) {
      const int64_t rows = std::min(kQueryBlock, t.num_queries - q0), limit = before + q0 + rows;
      const float* q = t.q + head * t.head_dim + q0 * t.token_stride;
      const float* d_out = t.d_out + head * t.head_dim + q0 * t.out_stride;
      const float* out = t.out + head * t.head_dim + q0 * t.out_stride;
      block_scores(t, q, rows, packed_k, ld, limit, p);
      product({rows, padded(limit), t.head_dim, d_out, t.out_stride, 1, packed_v, ld, ds, ld, false});
      for (int64_t i = 0; i < rows; ++i) {
        float delta = 0;
        for (int64_t e = 0; e < t.head_dim; ++e) delta += out[i * t.out_stride + e] * d_out[i * t.out_stride + e];
        const float lse = t.lse[head * t.lse_stride + q0 + i];
        const int64_t visible = before + q0 + i + 1;
        float *pi = p + i * ld, *di = ds + i * ld;
        for (int64_t j = visible; j < limit; ++j) pi[j] = -INFINITY;
        for (int64_t j = 0; j < limit; j += kWidth) {
          const Vec probability = vexp(load(pi + j) * t.scale - lse);
          store(pi + j, probability);
          store(di + j, probability * (load(di + j) - delta) * t.scale);
        }
        for (int64_t j = visible; j < limit; ++j) pi[j] = di[j] = 0;
      }
      float* d_q = t.d_q + head * t.head_dim + q0 * t.token_stride;
      bool first_range = true;
      for_each_range(t, limit, [&](int64_t first, int64_t count, int64_t token) {
        product({rows, t.head_dim, count, ds + first, ld, 1, t.k + token * t.token_stride, t.token_stride, d_q,
                 t.token_stride, !first_range});
        first_range = false;
        product({count, t.head_dim, rows, ds + first, 1, ld, q, t.token_stride, t.d_k + token * t.token_stride,
                 t.token_stride, true});
        product({count, t.head_dim, rows, p + first, 1, ld, d_out, t.out_stride, t.d_v + token * t.token_stride,
                 t.token_stride, true});
      });
    }
  }
}

}  // namespace tessera::kernels::TESSERA_ISA
