// Multi-head latent attention (MLA; DeepSeek-V2, arXiv 2405.04434, section 2.1) once the latents are expanded: keys have a
// part of their own and a rotary part that all heads share, values another width than keys.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "kernels/attention.h"

namespace tessera::kernels {

struct LatentShape {
  int64_t heads = 1;      // H
  int64_t nope_dim = 1;   // N: of queries and keys, without position
  int64_t rope_dim = 2;   // R: rotated
  int64_t value_dim = 1;  // W
  float scale = 1.0f;
  RopePairs pairs = RopePairs::kNeighbours;
};

/// q: [T, H (N + R)], kv: [T, H (N + W)] (key, value of each head), k_rope: [T, R]; rows contiguous, any row stride. The
/// rotary parts of q and k_rope are rotated in place. Returns [T, H W].
at::Tensor latent_attention(const at::Tensor& q, const at::Tensor& kv, const at::Tensor& k_rope, const LatentShape& shape,
                            const std::vector<Segment>& segments, const at::Tensor& positions, const RopeTable& rope);

/// Rotates the rotary parts in place, without autograd.
void rotate_latent(const at::Tensor& q, const at::Tensor& k_rope, const LatentShape& shape, const at::Tensor& positions,
                   const RopeTable& rope, bool inverse = false);

/// Queries in the space of the latents (the "absorbed" form): q_nope of each head times the head's rows of the up
/// projection w [H (N + W), C], followed by its rotary part. Returns [T, H, C + R]. No autograd.
at::Tensor absorb_queries(const at::Tensor& q, const at::Tensor& w, const LatentShape& shape);

/// The way back: mixed latents [T, H C] to values [T, H W] by the value rows of w. No autograd.
at::Tensor expand_values(const at::Tensor& mixed, const at::Tensor& w, const LatentShape& shape);

}  // namespace tessera::kernels
