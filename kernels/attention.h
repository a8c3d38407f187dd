// Attention over segments with grouped query heads and rotary positions (RoPE, arXiv 2104.09864; GQA, arXiv 2305.13245).
// Work follows the documents: nothing is spent on keys that a segment may not see.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "core/segment.h"

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

/// Table for positions [0, count) from inverse frequencies [E/2]; cos and sin are multiplied by `attention_factor`.
RopeTable make_rope_table(const std::vector<double>& inverse_frequencies, int64_t count, double attention_factor = 1.0);

/// qkv: [T, (H + 2K) E] float32, consumed: queries and keys are rotated in place. positions: [T] int32.
/// Returns [T, H E].
at::Tensor attention(const at::Tensor& qkv, const AttentionShape& shape, const std::vector<Segment>& segments,
                     const at::Tensor& positions, const RopeTable& rope);

/// Rotates the query and key heads of qkv in place.
void rotate(const at::Tensor& qkv, const AttentionShape& shape, const at::Tensor& positions, const RopeTable& rope,
            bool inverse = false);

}  // namespace tessera::kernels
