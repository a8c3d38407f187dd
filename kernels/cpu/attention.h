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

inline void small_product(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b,
                          int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  product({m, n, k, a, a_row, a_col, b, ldb, c, ldc, accumulate});
}

/// Transposes `dim` floats of each row of all key ranges into packed[dim, ld], zeros behind the last key.
inline void pack_transposed(const RowView& x, int64_t dim, const AttentionTask& t, int64_t ld, int64_t keys, float* packed) {
  int64_t column = 0;
  for (int64_t range = 0; range < t.num_ranges; ++range) {
    for (int64_t j = 0; j < t.range_length[range]; ++j, ++column) {
      const float* row = x.row(t.range_start[range] + j);
      for (int64_t e = 0; e < dim; ++e) packed[e * ld + column] = row[e];
    }
  }
  for (int64_t e = 0; e < dim; ++e)
    for (int64_t j = keys; j < ld; ++j) packed[e * ld + j] = 0;
}

/// Whole keys: the head's part, then the shared part.
inline void pack_keys(const AttentionTask& t, int64_t ld, int64_t keys, float* packed) {
  pack_transposed(t.k, t.key_dim, t, ld, keys, packed);
  if (t.shared_dim > 0) pack_transposed(t.shared, t.shared_dim, t, ld, keys, packed + t.key_dim * ld);
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
  product({rows, padded(limit), t.key_dim + t.shared_dim, q, t.q.stride, 1, packed_k, ld, scores, ld, false});
}

inline void attention(const AttentionTask& t, float* scratch) {
  const int64_t keys = count_keys(t), ld = padded(keys), before = keys - t.num_queries;
  float* packed_k = scratch;
  float* scores = packed_k + (t.key_dim + t.shared_dim) * ld;
  pack_keys(t, ld, keys, packed_k);
  for (int64_t head = 0; head < t.group; ++head) {
    for (int64_t q0 = 0; q0 < t.num_queries; q0 += kQueryBlock) {
      const int64_t rows = std::min(kQueryBlock, t.num_queries - q0), limit = before + q0 + rows;
      block_scores(t, t.q.row(q0) + head * (t.key_dim + t.shared_dim), rows, packed_k, ld, limit, scores);
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
      float* out = t.out.row(q0) + head * t.value_dim;
      bool first_range = true;
      for_each_range(t, limit, [&](int64_t first, int64_t count, int64_t token) {
        product({rows, t.value_dim, count, scores + first, ld, 1, t.v.row(token), t.v.stride, out, t.out.stride, !first_range});
        first_range = false;
      });
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t e = 0; e < t.value_dim; ++e) out[i * t.out.stride + e] *= inverse[i];
    }
  }
}

/// Turns block scores into probabilities p and ds, the gradient of the unscaled scores (in: d_out v^T).
inline void probability_gradients(const AttentionTask& t, int64_t head, int64_t q0, int64_t rows, int64_t before, int64_t limit,
                                  int64_t ld, float* p, float* ds) {
  for (int64_t i = 0; i < rows; ++i) {
    const float *out = t.out.row(q0 + i) + head * t.value_dim, *d_out = t.d_out.row(q0 + i) + head * t.value_dim;
    float delta = 0;
    for (int64_t e = 0; e < t.value_dim; ++e) delta += out[e] * d_out[e];
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
}

/// With ds[rows, keys] of one run of keys: d_q (+)= ds k, d_k += ds^T q.
inline void key_gradients(int64_t rows, int64_t count, int64_t dim, const float* ds, int64_t ld, const float* q, int64_t q_stride,
                          const float* k, int64_t k_stride, float* d_q, int64_t d_q_stride, bool accumulate, float* d_k,
                          int64_t d_k_stride) {
  product({rows, dim, count, ds, ld, 1, k, k_stride, d_q, d_q_stride, accumulate});
  product({count, dim, rows, ds, 1, ld, q, q_stride, d_k, d_k_stride, true});
}

inline void attention_backward(const AttentionTask& t, float* scratch) {
  const int64_t keys = count_keys(t), ld = padded(keys), before = keys - t.num_queries, qk_dim = t.key_dim + t.shared_dim;
  float* packed_k = scratch;
  float* packed_v = packed_k + qk_dim * ld;
  float* p = packed_v + t.value_dim * ld;
  float* ds = p + kQueryBlock * ld;
  pack_keys(t, ld, keys, packed_k);
  pack_transposed(t.v, t.value_dim, t, ld, keys, packed_v);
  for (int64_t head = 0; head < t.group; ++head) {
    for (int64_t q0 = 0; q0 < t.num_queries; q0 += kQueryBlock) {
      const int64_t rows = std::min(kQueryBlock, t.num_queries - q0), limit = before + q0 + rows;
      const float* q = t.q.row(q0) + head * qk_dim;
      const float* d_out = t.d_out.row(q0) + head * t.value_dim;
      float* d_q = t.d_q.row(q0) + head * qk_dim;
      block_scores(t, q, rows, packed_k, ld, limit, p);
      product({rows, padded(limit), t.value_dim, d_out, t.d_out.stride, 1, packed_v, ld, ds, ld, false});
      probability_gradients(t, head, q0, rows, before, limit, ld, p, ds);
      bool first_range = true;
      for_each_range(t, limit, [&](int64_t first, int64_t count, int64_t token) {
        key_gradients(rows, count, t.key_dim, ds + first, ld, q, t.q.stride, t.k.row(token), t.k.stride, d_q, t.d_q.stride,
                      !first_range, t.d_k.row(token), t.d_k.stride);
        if (t.shared_dim > 0)
          key_gradients(rows, count, t.shared_dim, ds + first, ld, q + t.key_dim, t.q.stride, t.shared.row(token), t.shared.stride,
                        d_q + t.key_dim, t.d_q.stride, !first_range, t.d_shared.row(token), t.d_shared.stride);
        product({count, t.value_dim, rows, p + first, 1, ld, d_out, t.d_out.stride, t.d_v.row(token), t.d_v.stride, true});
        first_range = false;
      });
    }
  }
}

}  // namespace tessera::kernels::TESSERA_ISA
