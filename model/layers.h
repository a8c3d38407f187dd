// What the layers of a model are made of: linears that are stacks of Hugging Face linears, the named weights they list, and
// what all layers of one forward pass share.
#pragma once

#include <string>
#include <vector>

#include "core/segment.h"
#include "kernels/attention.h"
#include "kernels/linear.h"
#include "model/kv_cache.h"
#include "moe/router.h"

namespace tessera::model {

/// A Hugging Face tensor: rows of a parameter from row_begin.
struct NamedWeight {
  std::string name;
  kernels::ParameterPtr parameter;
  int64_t row_begin = 0;
  std::vector<int64_t> shape;
  bool buffer = false;      // moved by balancing, not by the optimizer; files hold it in float32
  bool projection = false;  // a linear of attention, MLP or expert: what FP8 files quantise
  /// Where the file's tensor has more than this rank holds: its first dimension, and the first of it that is here.
  int64_t file_rows = 0, file_row_begin = 0;

  /// The memory itself; not of codes.
  [[nodiscard]] at::Tensor view() const;
  /// float32, to be read only; of codes made anew.
  [[nodiscard]] at::Tensor values() const;
  /// Offset of the first element within the parameter.
  [[nodiscard]] int64_t offset() const;
  [[nodiscard]] int64_t numel() const;
};

/// One Hugging Face linear within a stack.
struct StackPart {
  std::string name;  // "self_attn.q_proj"
  int64_t out_begin = 0, out_end = 0;
};

struct LinearLayer {
  kernels::LinearSpec spec;
  std::vector<StackPart> parts;
  std::string norm_name;  // of the norm in front, where there is one
};

/// `parts`: names and rows.
[[nodiscard]] LinearLayer make_linear(std::vector<std::pair<std::string, int64_t>> parts, int64_t in, bool bias);
void put_norm_in_front(LinearLayer& layer, std::string name, double eps);

void list_weight(const std::string& name, const kernels::ParameterPtr& parameter, std::vector<NamedWeight>& list);
/// The norm, then each part's weight and bias.
void list_linear(const std::string& prefix, const LinearLayer& layer, std::vector<NamedWeight>& list);

/// What the backward pass computes again instead of keeping it. Norms and SwiGLU always are.
enum class Recompute {
  kNone,
  kSelective,  // MLA's up-projections and attention
  kFull,       // whole blocks
};

using kernels::PassKind;

/// What one forward pass hands to every layer.
struct Pass {
  PassKind kind = PassKind::kTraining;
  at::Tensor positions = {};  // [T] int32
  std::vector<Segment> segments = {};
  std::vector<int64_t> row_starts = {};  // see kernels::linear
  const kernels::RopeTable* rope = nullptr;
  moe::RoutingTerms routing = {};
  Recompute recompute = Recompute::kNone;
  KvCache* cache = nullptr;    // written when given
  std::vector<int64_t> sequences = {};  // of the cache: one a segment in prefill, one a token in decoding
  std::vector<int64_t> keys = {};       // decoding: keys that each token sees, its own included
};

/// The layer with or without autograd, as the pass wants.
[[nodiscard]] at::Tensor run_linear(const Pass& pass, const at::Tensor& x, const LinearLayer& layer, const at::Tensor& residual = {});

}  // namespace tessera::model
