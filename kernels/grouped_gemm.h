// Linear layers of many experts at once: rows sorted by expert, weights stacked. Each expert's products are split into
// blocks of fixed size, computed by one thread each, the largest first; the result does not depend on the number of threads.
//
// Legend: N rows, E experts.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "kernels/linear.h"
#include "kernels/permute.h"
#include "kernels/row_groups.h"

namespace tessera::kernels {

struct GroupedLinearSpec {
  ParameterPtr weight;  // [E out, in]
  int64_t experts = 1;
  Prologue prologue = Prologue::kNone;  // kNone or kSwiglu, which is recomputed in the backward pass
  std::shared_ptr<fp8::Weight> fp8 = {};  // see LinearSpec
  [[nodiscard]] int64_t out() const { return weight->value.size(0) / experts; }
};

/// u = prologue(x); y[r] = W_e u[r] for the rows r in [offsets[e], offsets[e + 1]). x: [N, in], or [N, 2 in] (gate, up) with
/// kSwiglu; offsets: those of `groups`. Returns [N, out]. `spec` must outlive the backward pass.
/// A row's bits do not depend on how many others there are. Decoding takes a kernel for few rows. In FP8, tiles along rows begin
/// anew with each expert.
at::Tensor grouped_linear(const at::Tensor& x, const GroupedLinearSpec& spec, const RowGroups& groups,
                          PassKind kind = PassKind::kTraining);
/// The same of gather_rows(tokens, map), which is not made where codes of tokens will do.
at::Tensor grouped_linear(const at::Tensor& tokens, const RowMapPtr& map, const GroupedLinearSpec& spec, const RowGroups& groups,
                          PassKind kind = PassKind::kTraining);

}  // namespace tessera::kernels
