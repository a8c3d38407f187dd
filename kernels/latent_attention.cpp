#include "kernels/latent_attention.h"

#include <torch/csrc/autograd/custom_function.h>

#include <cstring>

#include "core/error.h"
#include "kernels/accelerator.h"
#include "kernels/attention_core.h"
#include "kernels/threads.h"

namespace tessera::kernels {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

HeadLayout layout_of(const LatentShape& s) {
  const int64_t step = s.nope_dim + s.value_dim;
  return {s.heads, s.heads, s.nope_dim, s.rope_dim, s.value_dim, step, step, s.scale};
}

Operands operands_of(const at::Tensor& q, const at::Tensor& kv, const at::Tensor& k_rope, const LatentShape& s) {
  return {q, kv, k_rope, columns_from(kv, s.nope_dim)};
}

/// [H, T, R] summed over heads, in order.
at::Tensor sum_over_heads(const at::Tensor& per_head) {
  if (accelerator_of(per_head) != nullptr) return per_head.sum(0);
  const int64_t heads = per_head.size(0), block = per_head.size(1) * per_head.size(2);
  at::Tensor sum = at::zeros({per_head.size(1), per_head.size(2)}, per_head.options());
  const float* from = per_head.const_data_ptr<float>();
  float* to = sum.data_ptr<float>();
  for_each_chunk(block, 4096, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t h = 0; h < heads; ++h) kernel_table().add_scaled(1.0f, from + h * block + begin, to + begin, end - begin);
  });
  return sum;
}

struct LatentState : torch::CustomClassHolder {
  LatentShape shape;
  std::shared_ptr<SegmentPlan> plan;
  RopeTable rope;
};

struct LatentAttentionFunction : torch::autograd::Function<LatentAttentionFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& kv, const at::Tensor& k_rope,
                            const at::Tensor& positions, const c10::intrusive_ptr<LatentState>& state) {
    const LatentShape& shape = state->shape;
    rotate_latent(q, k_rope, shape, positions, state->rope);
    at::Tensor out = at::empty({q.size(0), shape.heads * shape.value_dim}, q.options());
    at::Tensor lse = at::empty({shape.heads, q.size(0)}, q.options().dtype(at::kFloat));
    attend(layout_of(shape), operands_of(q, kv, k_rope, shape), *state->plan, out, lse);
    ctx->save_for_backward({q, kv, k_rope, positions, out, lse});
    ctx->saved_data["state"] = c10::IValue::make_capsule(state);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const auto state = c10::static_intrusive_pointer_cast<LatentState>(ctx->saved_data["state"].toCapsule());
    const LatentShape& shape = state->shape;
    const at::Tensor &q = saved[0], &kv = saved[1], &k_rope = saved[2], &positions = saved[3], &out = saved[4], &lse = saved[5];
    const int64_t tokens = q.size(0);
    at::Tensor d_q = at::zeros(q.sizes(), q.options()), d_kv = at::zeros(kv.sizes(), kv.options());
    const at::Tensor d_rope_per_head = at::zeros({shape.heads, tokens, shape.rope_dim}, q.options());
    attend_backward(layout_of(shape), operands_of(q, kv, k_rope, shape), *state->plan, out, lse, gradients[0].contiguous(),
                    operands_of(d_q, d_kv, d_rope_per_head, shape));
    at::Tensor d_rope = sum_over_heads(d_rope_per_head);
    rotate_latent(d_q, d_rope, shape, positions, state->rope, true);
    return {d_q, d_kv, d_rope, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

void rotate_latent(const at::Tensor& q, const at::Tensor& k_rope, const LatentShape& shape, const at::Tensor& positions,
                   const RopeTable& rope, bool inverse) {
  const int64_t qk_dim = shape.nope_dim + shape.rope_dim;
  rotate_heads(columns_from(q, shape.nope_dim), shape.heads, qk_dim, shape.rope_dim, shape.pairs, positions, rope, inverse);
  rotate_heads(k_rope, 1, shape.rope_dim, shape.rope_dim, shape.pairs, positions, rope, inverse);
}

at::Tensor latent_attention(const at::Tensor& q, const at::Tensor& kv, const at::Tensor& k_rope, const LatentShape& shape,
                            const std::vector<Segment>& segments, const at::Tensor& positions, const RopeTable& rope) {
  TESSERA_CHECK(q.size(1) == shape.heads * (shape.nope_dim + shape.rope_dim) && k_rope.size(1) == shape.rope_dim &&
                    kv.size(1) == shape.heads * (shape.nope_dim + shape.value_dim),
                "latent_attention over ", q.sizes(), ", ", kv.sizes(), ", ", k_rope.sizes());
  auto state = c10::make_intrusive<LatentState>();
  state->shape = shape;
  state->plan = plan_segments(segments, q.size(0));
  state->rope = rope;
  return LatentAttentionFunction::apply(q, kv, k_rope, positions, state);
}

at::Tensor absorb_queries(const at::Tensor& q, const at::Tensor& w, const LatentShape& s) {
  const int64_t tokens = q.size(0), latent = w.size(1), qk_dim = s.nope_dim + s.rope_dim, row = latent + s.rope_dim;
  if (accelerator_of(q) != nullptr) {
    const at::Tensor heads = heads_of(q, s.heads, qk_dim, qk_dim).transpose(0, 1), up = w.view({s.heads, s.nope_dim + s.value_dim, latent});
    const at::Tensor absorbed = heads.narrow(2, 0, s.nope_dim).bmm(up.narrow(1, 0, s.nope_dim));
    return at::cat({absorbed, heads.narrow(2, s.nope_dim, s.rope_dim)}, 2).transpose(0, 1).contiguous();
  }
  at::Tensor absorbed = at::empty({tokens, s.heads, row}, q.options());
  const RowView queries = row_view(q);
  const float* up = w.const_data_ptr<float>();
  float* result = absorbed.data_ptr<float>();
  for_each_task(s.heads, [&](int64_t h) {
    kernel_table().small_product(tokens, latent, s.nope_dim, queries.data + h * qk_dim, queries.stride, 1,
                                 up + h * (s.nope_dim + s.value_dim) * latent, latent, result + h * row, s.heads * row, false);
    for (int64_t t = 0; t < tokens; ++t)
      std::memcpy(result + (t * s.heads + h) * row + latent, queries.row(t) + h * qk_dim + s.nope_dim,
                  static_cast<size_t>(s.rope_dim) * sizeof(float));
  });
  return absorbed;
}

at::Tensor expand_values(const at::Tensor& mixed, const at::Tensor& w, const LatentShape& s) {
  const int64_t tokens = mixed.size(0), latent = w.size(1);
  if (accelerator_of(mixed) != nullptr) {
    const at::Tensor up = w.view({s.heads, s.nope_dim + s.value_dim, latent}).narrow(1, s.nope_dim, s.value_dim);
    return mixed.view({tokens, s.heads, latent}).transpose(0, 1).bmm(up.transpose(1, 2)).transpose(0, 1).reshape({tokens, s.heads * s.value_dim});
  }
  at::Tensor values = at::empty({tokens, s.heads * s.value_dim}, mixed.options());
  const float *from = mixed.const_data_ptr<float>(), *up = w.const_data_ptr<float>();
  float* to = values.data_ptr<float>();
  for_each_task(s.heads, [&](int64_t h) {
    const float* rows = up + (h * (s.nope_dim + s.value_dim) + s.nope_dim) * latent;
    for (int64_t t = 0; t < tokens; ++t)
      kernel_table().few_rows_product(from + (t * s.heads + h) * latent, 1, latent, rows, 0, s.value_dim,
                                      to + t * s.heads * s.value_dim + h * s.value_dim, s.heads * s.value_dim);
  });
  return values;
}

}  // namespace tessera::kernels
