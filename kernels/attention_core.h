// Attention over segments once queries, keys and values are ready: which keys each segment sees, and the work over
// (segments, heads) shared out to threads. The layers' functions, attention() and latent_attention(), are built on it.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "core/segment.h"
#include "kernels/attention.h"
#include "kernels/cpu/kernel_table.h"

namespace tessera::kernels {

/// The keys of one segment: ancestors from the root down, then itself.
struct KeyRanges {
  std::vector<int64_t> starts, lengths;
  int64_t keys = 0;
};

struct SegmentPlan {
  std::vector<Segment> segments;
  std::vector<KeyRanges> ranges;
  std::vector<std::vector<int64_t>> families;  // segments that share a root: they write to the same keys' gradients
  int64_t longest = 0;                         // most keys of a segment
};

[[nodiscard]] std::shared_ptr<SegmentPlan> plan_segments(const std::vector<Segment>& segments, int64_t tokens);

/// How heads lie in rows. Query heads are adjacent; so are the heads of the output.
struct HeadLayout {
  int64_t heads = 1, key_value_heads = 1;
  int64_t key_dim = 0, shared_dim = 0, value_dim = 0;  // of a key: own part, part shared by all heads
  int64_t key_step = 0, value_step = 0;                // floats between key/value heads
  float scale = 1.0f;
};

/// Matrices of rows [T, .] whose first column is that of head 0; contiguous rows, any row stride. In gradients, `shared` is
/// [H, T, R], of each head.
struct Operands {
  at::Tensor q, k, shared, v;
};

/// Fills out [T, heads * value_dim] and lse [heads, T].
void attend(const HeadLayout& layout, const Operands& operands, const SegmentPlan& plan, const at::Tensor& out,
            const at::Tensor& lse);
/// Writes gradients.q and adds to the others.
void attend_backward(const HeadLayout& layout, const Operands& operands, const SegmentPlan& plan, const at::Tensor& out,
                     const at::Tensor& lse, const at::Tensor& d_out, const Operands& gradients);

/// Rotates the first `dim` numbers of each of `heads` heads, `head_stride` apart, in the rows of x, in place.
void rotate_heads(const at::Tensor& x, int64_t heads, int64_t head_stride, int64_t dim, RopePairs pairs, const at::Tensor& positions,
                  const RopeTable& rope, bool inverse);

/// Heads of `dim` numbers, `step` apart, in the rows of a matrix [T, .]: a view [T, heads, dim].
[[nodiscard]] inline at::Tensor heads_of(const at::Tensor& matrix, int64_t heads, int64_t step, int64_t dim) {
  return matrix.as_strided({matrix.size(0), heads, dim}, {matrix.stride(0), step, 1}, matrix.storage_offset());
}

/// The columns of a matrix from `first` on.
[[nodiscard]] inline at::Tensor columns_from(const at::Tensor& matrix, int64_t first) { return matrix.slice(1, first); }

/// A view of a float32 matrix whose rows are contiguous.
[[nodiscard]] RowView row_view(const at::Tensor& matrix);

}  // namespace tessera::kernels
