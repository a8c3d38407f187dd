// Attention over segments with grouped query heads and rotary positions (RoPE, arXiv 2104.09864; GQA, arXiv 2305.13245).
// Work follows the documents: nothing is spent on keys that a segment may not see.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "core/segment.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/parameter.h"

namespace tessera::kernels {

struct AttentionShape {
  int64_t heads = 1;           // query heads H
  int64_t key_value_heads = 1; // K, divides H
  int64_t head_dim = 1;        // E
  float scale = 1.0f;          // of the scores, usually E^-1/2
  [[nodiscard]] int64_t row() const { return (heads + 2 * key_value_heads) * head_dim; }
};

/// cos and sin by position: [positions, E/2] each.
struct RopeTable {
  at::Tensor cos, sin;
};

/// Which two components an angle rotates: i and i + E/2, or 2i and 2i + 1.
enum class RopePairs { kHalves, kNeighbours };

/// RMSNorm of each query head and each key head in front of the rotation; weights [E].
struct HeadNorms {
  ParameterPtr query, key;
  float eps = 1e-6f;
};

/// Table for positions [0, count) from inverse frequencies [E/2]; cos and sin are multiplied by `attention_factor`.
RopeTable make_rope_table(const std::vector<double>& inverse_frequencies, int64_t count, double attention_factor = 1.0);

/// qkv: [T, (H + 2K) E] float32, consumed: queries and keys are rotated in place. positions: [T] int32.
/// Returns [T, H E].
at::Tensor attention(const at::Tensor& qkv, const AttentionShape& shape, const std::vector<Segment>& segments,
                     const at::Tensor& positions, const RopeTable& rope);

/// The same with normalised heads. qkv is kept for the backward pass, unchanged. `norms` must outlive it.
at::Tensor attention(const at::Tensor& qkv, const AttentionShape& shape, const std::vector<Segment>& segments,
                     const at::Tensor& positions, const RopeTable& rope, const HeadNorms& norms);

/// Rotates the query and key heads of qkv in place.
void rotate(const at::Tensor& qkv, const AttentionShape& shape, const at::Tensor& positions, const RopeTable& rope,
            bool inverse = false);

/// Normalises the query and key heads of qkv in place, without autograd.
void normalize_heads(const at::Tensor& qkv, const AttentionShape& shape, const HeadNorms& norms);

/// Copies rows [N, R] of a matrix to addresses on its device, `offset` numbers behind each.
void store_rows(const at::Tensor& rows, const std::vector<void*>& to, int64_t offset = 0);

/// Keys and values of one sequence for each query token, as runs of rows `stride` numbers apart: those of query i are
/// runs[first_run[i]] to runs[first_run[i + 1] - 1]. In a row the keys of all key/value heads come first; the values begin at
/// `values_begin`.
struct CachedRows {
  std::vector<CachedRun> runs = {};
  std::vector<size_t> first_run = {0};
  int64_t stride = 0, values_begin = 0;

  [[nodiscard]] int64_t queries() const { return static_cast<int64_t>(first_run.size()) - 1; }
};

/// Single query tokens over cached rows, without autograd. q: [N, H, qk_dim], contiguous; shape.head_dim is qk_dim.
/// Returns [N, H * value_dim].
at::Tensor attention_decode(const at::Tensor& q, const AttentionShape& shape, int64_t value_dim, const CachedRows& cached);

}  // namespace tessera::kernels
