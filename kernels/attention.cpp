#include "kernels/attention.h"

#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <cstring>
#include <memory>

#include "core/error.h"
#include "kernels/accelerator.h"
#include "kernels/attention_core.h"
#include "kernels/threads.h"

namespace tessera::kernels {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

HeadLayout layout_of(const AttentionShape& s) {
  return {s.heads, s.key_value_heads, s.head_dim, 0, s.head_dim, s.head_dim, s.head_dim, s.scale};
}

Operands operands_of(const at::Tensor& qkv, const AttentionShape& s) {
  return {qkv, columns_from(qkv, s.heads * s.head_dim), {}, columns_from(qkv, (s.heads + s.key_value_heads) * s.head_dim)};
}

// What one attention call keeps besides tensors, between forward and backward.
struct AttentionState : torch::CustomClassHolder {
  AttentionShape shape;
  std::shared_ptr<SegmentPlan> plan;
  RopeTable rope;
  const HeadNorms* norms = nullptr;
};

at::Tensor normalized_and_rotated(const at::Tensor& qkv, const at::Tensor& positions, const AttentionState& state) {
  at::Tensor ready = qkv;
  if (state.norms != nullptr) {
    ready = qkv.clone();
    normalize_heads(ready, state.shape, *state.norms);
  }
  rotate(ready, state.shape, positions, state.rope);
  return ready;
}

/// Turns the gradient of normalised heads into that of the heads x, in place; adds to the weight's gradient.
void head_norm_backward(const at::Tensor& gradient, const at::Tensor& x, int64_t heads, const ParameterPtr& weight, float eps) {
  const int64_t dim = weight->value.numel();
  if (const Accelerator* device = accelerator_of(x)) {
    device->norm_heads_backward(gradient.narrow(1, 0, heads * dim), x.narrow(1, 0, heads * dim), weight->value, eps,
                                weight->trainable() ? weight->open_gradient() : at::Tensor());
    if (weight->trainable()) weight->gradient_added();
    return;
  }
  const RowView d = row_view(gradient), rows = row_view(x);
  const float* w = weight->value.const_data_ptr<float>();
  at::Tensor partial = at::zeros({at::get_num_threads(), dim}, x.options());  // one sum a thread, added up in order
  for_each_chunk(x.size(0), 16, [&](int64_t chunk, int64_t begin, int64_t end) {
    std::vector<float> rstd(static_cast<size_t>(heads)), y(static_cast<size_t>(heads * dim)), dx(y.size());
    for (int64_t t = begin; t < end; ++t) {
      kernel_table().rms_norm(rows.row(t), nullptr, w, eps, heads, dim, nullptr, y.data(), rstd.data());
      kernel_table().rms_norm_backward(d.row(t), rows.row(t), w, rstd.data(), heads, dim, false, dx.data(),
                                       partial.data_ptr<float>() + chunk * dim);
      std::memcpy(d.row(t), dx.data(), dx.size() * sizeof(float));
    }
  });
  if (!weight->trainable()) return;
  for (int64_t i = 0; i < partial.size(0); ++i) weight->open_gradient().add_(partial[i]);
  weight->gradient_added();
}

struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv, const at::Tensor& positions,
                            const c10::intrusive_ptr<AttentionState>& state) {
    const AttentionShape& shape = state->shape;
    const at::Tensor ready = normalized_and_rotated(qkv, positions, *state);
    at::Tensor out = at::empty({qkv.size(0), shape.heads * shape.head_dim}, qkv.options());
    at::Tensor lse = at::empty({shape.heads, qkv.size(0)}, qkv.options().dtype(at::kFloat));
    attend(layout_of(shape), operands_of(ready, shape), *state->plan, out, lse);
    ctx->save_for_backward({qkv, positions, out, lse});
    ctx->saved_data["state"] = c10::IValue::make_capsule(state);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const auto state = c10::static_intrusive_pointer_cast<AttentionState>(ctx->saved_data["state"].toCapsule());
    const AttentionShape& shape = state->shape;
    const at::Tensor &qkv = saved[0], &positions = saved[1], &out = saved[2], &lse = saved[3];
    const at::Tensor ready = state->norms == nullptr ? qkv : normalized_and_rotated(qkv, positions, *state);
    at::Tensor d_qkv = at::zeros_like(qkv);
    attend_backward(layout_of(shape), operands_of(ready, shape), *state->plan, out, lse, gradients[0].contiguous(),
                    operands_of(d_qkv, shape));
    rotate(d_qkv, shape, positions, state->rope, true);
    if (const HeadNorms* norms = state->norms) {
      const int64_t keys = shape.heads * shape.head_dim;
      head_norm_backward(d_qkv, qkv, shape.heads, norms->query, norms->eps);
      head_norm_backward(columns_from(d_qkv, keys), columns_from(qkv, keys), shape.key_value_heads, norms->key, norms->eps);
    }
    return {d_qkv, at::Tensor(), at::Tensor()};
  }
};

at::Tensor apply(const at::Tensor& qkv, const AttentionShape& shape, const std::vector<Segment>& segments,
                 const at::Tensor& positions, const RopeTable& rope, const HeadNorms* norms) {
  TESSERA_CHECK(qkv.dim() == 2 && qkv.is_contiguous() && qkv.size(1) == shape.row(), "attention over ", qkv.sizes());
  auto state = c10::make_intrusive<AttentionState>();
  state->shape = shape;
  state->plan = plan_segments(segments, qkv.size(0));
  state->rope = rope;
  state->norms = norms;
  return AttentionFunction::apply(qkv, positions, state);
}

}  // namespace

RopeTable make_rope_table(const std::vector<double>& inverse_frequencies, int64_t count, double attention_factor) {
  const auto half = static_cast<int64_t>(inverse_frequencies.size());
  RopeTable table{at::empty({count, half}, at::kFloat), at::empty({count, half}, at::kFloat)};
  float *cos = table.cos.data_ptr<float>(), *sin = table.sin.data_ptr<float>();
  for (int64_t p = 0; p < count; ++p) {
    for (int64_t i = 0; i < half; ++i) {
      // transformers multiplies in float32; the angle is rounded the same way so that long positions agree.
      const float angle = static_cast<float>(p) * static_cast<float>(inverse_frequencies[static_cast<size_t>(i)]);
      cos[p * half + i] = static_cast<float>(std::cos(static_cast<double>(angle)) * attention_factor);
      sin[p * half + i] = static_cast<float>(std::sin(static_cast<double>(angle)) * attention_factor);
    }
  }
  return table;
}

void rotate(const at::Tensor& qkv, const AttentionShape& shape, const at::Tensor& positions, const RopeTable& rope,
            bool inverse) {
  rotate_heads(qkv, shape.heads + shape.key_value_heads, shape.head_dim, shape.head_dim, RopePairs::kHalves, positions, rope, inverse);
}

void normalize_heads(const at::Tensor& qkv, const AttentionShape& shape, const HeadNorms& norms) {
  norms.query->await();
  norms.key->await();
  const int64_t queries = shape.heads * shape.head_dim;
  if (const Accelerator* device = accelerator_of(qkv)) {
    device->norm_heads(qkv.narrow(1, 0, queries), norms.query->value, norms.eps);
    device->norm_heads(qkv.narrow(1, queries, shape.key_value_heads * shape.head_dim), norms.key->value, norms.eps);
    return;
  }
  const RowView rows = row_view(qkv);
  const float *query = norms.query->value.const_data_ptr<float>(), *key = norms.key->value.const_data_ptr<float>();
  const auto normalize = [&](float* x, const float* w, int64_t heads) {
    kernel_table().rms_norm(x, nullptr, w, norms.eps, heads, shape.head_dim, nullptr, x, nullptr);
  };
  for_each_chunk(qkv.size(0), 16, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      normalize(rows.row(t), query, shape.heads);
      normalize(rows.row(t) + queries, key, shape.key_value_heads);
    }
  });
}

at::Tensor attention(const at::Tensor& qkv, const AttentionShape& shape, const std::vector<Segment>& segments,
                     const at::Tensor& positions, const RopeTable& rope) {
  return apply(qkv, shape, segments, positions, rope, nullptr);
}

at::Tensor attention(const at::Tensor& qkv, const AttentionShape& shape, const std::vector<Segment>& segments,
                     const at::Tensor& positions, const RopeTable& rope, const HeadNorms& norms) {
  return apply(qkv, shape, segments, positions, rope, &norms);
}

void store_rows(const at::Tensor& rows, const std::vector<void*>& to, int64_t offset) {
  TESSERA_CHECK(rows.size(0) == static_cast<int64_t>(to.size()) && rows.stride(1) == 1, "stored rows ", rows.sizes(), " at ", to.size(), " addresses");
  if (const Accelerator* device = accelerator_of(rows)) return device->store_rows(rows, to, offset);
  for (size_t i = 0; i < to.size(); ++i)
    std::memcpy(static_cast<float*>(to[i]) + offset, rows.const_data_ptr<float>() + static_cast<int64_t>(i) * rows.stride(0),
                static_cast<size_t>(rows.size(1)) * sizeof(float));
}

at::Tensor attention_decode(const at::Tensor& q, const AttentionShape& shape, int64_t value_dim, const CachedRows& cached) {
  const int64_t count = cached.queries(), heads = shape.heads, kv_heads = shape.key_value_heads, group = heads / kv_heads;
  TESSERA_CHECK(q.is_contiguous() && q.numel() == count * heads * shape.head_dim, "attention_decode of ", q.sizes());
  if (const Accelerator* device = accelerator_of(q)) return device->attend_cached(q, shape, value_dim, cached);
  at::Tensor out = at::empty({count, heads * value_dim}, q.options());
  const float* queries = q.const_data_ptr<float>();
  float* result = out.data_ptr<float>();
  // Few tokens with one key head: each thread takes some of the query heads.
  const int64_t parts = std::clamp<int64_t>(at::get_num_threads() / std::max<int64_t>(1, count * kv_heads), 1, group);
  for_each_task(count * kv_heads * parts, [&](int64_t task) {
    static thread_local std::vector<float> scratch;
    const int64_t part = task % parts, kv_head = task / parts % kv_heads, i = task / parts / kv_heads;
    const int64_t first = group * part / parts, heads_here = group * (part + 1) / parts - first, head = kv_head * group + first;
    const CachedRun* runs = cached.runs.data() + cached.first_run[static_cast<size_t>(i)];
    const auto num_runs = static_cast<int64_t>(cached.first_run[static_cast<size_t>(i) + 1] - cached.first_run[static_cast<size_t>(i)]);
    int64_t keys = 0;
    for (int64_t r = 0; r < num_runs; ++r) keys += runs[r].count;
    const auto floats = static_cast<size_t>(attention_decode_scratch_floats(heads_here, keys));
    if (scratch.size() < floats) scratch.resize(floats + 4096);
    kernel_table().attention_decode(queries + (i * heads + head) * shape.head_dim, heads_here, shape.head_dim, runs, num_runs, cached.stride,
                                    kv_head * shape.head_dim, cached.values_begin + kv_head * value_dim, value_dim, shape.scale,
                                    result + (i * heads + head) * value_dim, scratch.data());
  });
  return out;
}

}  // namespace tessera::kernels
