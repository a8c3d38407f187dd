// What generation needs beside the layers' kernels: rows to and from a cache in pages, and draws. Plain data: compiled by nvcc. All return at once.
#pragma once

#include <cstdint>

#include "kernels/cuda/losses.h"

namespace tessera::kernels::cuda {

/// `offset` numbers behind addresses[n] receive row n of [count, dim] with rows `stride` apart.
struct StoredRows {
  const void* rows = nullptr;
  const int64_t* addresses = nullptr;  // [count]
  int64_t count = 0, dim = 0, stride = 0, offset = 0;
};
void store_rows(Where where, const StoredRows& job);

constexpr int64_t kMostKeyDim = 640, kMostValueDim = 512;  // of a head, for which a block has room

/// As attention.h's attention_decode(), sums in float32.
struct CachedAttention {
  const void* q = nullptr;  // [queries, heads, head_dim]
  int64_t queries = 0, heads = 1, key_value_heads = 1, head_dim = 0, value_dim = 0;
  float scale = 1.0f;
  const int64_t *addresses = nullptr, *counts = nullptr;  // [runs]
  const int64_t* first_run = nullptr;                     // [queries + 1]
  int64_t stride = 0, values_begin = 0;
  void* out = nullptr;      // [queries, heads, value_dim]
};
void attend_cached(Where where, const CachedAttention& job);

/// As Accelerator::draw_tokens; logits.ids is not read. drawn: [rows, 2].
void draw_tokens(Where where, const Logits& logits, const double* uniforms, float inverse_temperature, bool greedy, double* drawn);

}  // namespace tessera::kernels::cuda
