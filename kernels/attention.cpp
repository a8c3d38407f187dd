#include "kernels/attention.h"

#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <memory>

#include "core/error.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/threads.h"

namespace tessera::kernels {

namespace {

/// The keys of one segment: ancestors from the root down, then itself.
struct KeyRanges {
  std::vector<int64_t> starts, lengths;
  int64_t keys = 0;
};

struct SegmentPlan {
  std::vector<Segment> segments;
  std::vector<KeyRanges> ranges;
  std::vector<std::vector<int64_t>> families;  // segments that share a root: they write to the same keys' gradients
};

std::shared_ptr<SegmentPlan> plan_segments(const std::vector<Segment>& segments, int64_t tokens) {
  auto plan = std::make_shared<SegmentPlan>();
  plan->segments = segments;
  std::vector<int64_t> family(segments.size());
  for (size_t i = 0; i < segments.size(); ++i) {
    const Segment& s = segments[i];
    TESSERA_CHECK(s.parent < static_cast<int64_t>(i) && s.start >= 0 && s.start + s.length <= tokens, "segment ", i);
    KeyRanges ranges;
    if (s.parent >= 0) {
      ranges = plan->ranges[static_cast<size_t>(s.parent)];
      family[i] = family[static_cast<size_t>(s.parent)];
    } else {
      family[i] = static_cast<int64_t>(plan->families.size());
      plan->families.emplace_back();
    }
    ranges.starts.push_back(s.start);
    ranges.lengths.push_back(s.length);
    ranges.keys += s.length;
    plan->ranges.push_back(std::move(ranges));
    plan->families[static_cast<size_t>(family[i])].push_back(static_cast<int64_t>(i));
  }
  return plan;
}

AttentionTask make_task(const at::Tensor& qkv, const AttentionShape& shape, const SegmentPlan& plan, int64_t segment,
                        int64_t kv_head, const at::Tensor& out, const at::Tensor& lse) {
  const Segment& s = plan.segments[static_cast<size_t>(segment)];
  const KeyRanges& ranges = plan.ranges[static_cast<size_t>(segment)];
  const int64_t group = shape.heads / shape.key_value_heads, e = shape.head_dim;
  float* base = qkv.data_ptr<float>();
  AttentionTask task{};
  task.q = base + s.start * shape.row() + kv_head * group * e;
  task.k = base + (shape.heads + kv_head) * e;
  task.v = base + (shape.heads + shape.key_value_heads + kv_head) * e;
  task.token_stride = shape.row();
  task.head_dim = e;
  task.group = group;
  task.range_start = ranges.starts.data();
  task.range_length = ranges.lengths.data();
  task.num_ranges = static_cast<int64_t>(ranges.starts.size());
  task.num_queries = s.length;
  task.scale = shape.scale;
  task.out_stride = shape.heads * e;
  task.out = out.data_ptr<float>() + s.start * task.out_stride + kv_head * group * e;
  if (lse.defined()) {
    task.lse_stride = lse.size(1);
    task.lse = lse.data_ptr<float>() + kv_head * group * task.lse_stride + s.start;
  }
  return task;
}

/// Runs body(family, key/value head) over all pairs; each thread brings scratch for the longest segment.
template <typename Body>
void for_each_family(const SegmentPlan& plan, const AttentionShape& shape, const Body& body) {
  int64_t longest = 0;
  for (const auto& ranges : plan.ranges) longest = std::max(longest, ranges.keys);
  const int64_t floats = attention_scratch_floats(longest, shape.head_dim);
  const int64_t tasks = static_cast<int64_t>(plan.families.size()) * shape.key_value_heads;
  for_each_task(tasks, [&](int64_t task) {
    static thread_local std::vector<float> scratch;
    if (static_cast<int64_t>(scratch.size()) < floats) scratch.resize(static_cast<size_t>(floats));
    body(plan.families[static_cast<size_t>(task / shape.key_value_heads)], task % shape.key_value_heads, scratch.data());
  });
}

// What one attention call keeps besides tensors, between forward and backward.
struct AttentionState : torch::CustomClassHolder {
  AttentionShape shape;
  std::shared_ptr<SegmentPlan> plan;
  RopeTable rope;
};

struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& qkv, const at::Tensor& positions,
                            const c10::intrusive_ptr<AttentionState>& state) {
    const AttentionShape& shape = state->shape;
    rotate(qkv, shape, positions, state->rope);
    at::Tensor out = at::empty({qkv.size(0), shape.heads * shape.head_dim}, qkv.options());
    at::Tensor lse = at::empty({shape.heads, qkv.size(0)}, qkv.options());
    for_each_family(*state->plan, shape, [&](const auto& family, int64_t kv_head, float* scratch) {
      for (int64_t segment : family)
        kernel_table().attention(make_task(qkv, shape, *state->plan, segment, kv_head, out, lse), scratch);
    });
    ctx->save_for_backward({qkv, positions, out, lse});
    ctx->saved_data["state"] = c10::IValue::make_capsule(state);
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const auto state = c10::static_intrusive_pointer_cast<AttentionState>(ctx->saved_data["state"].toCapsule());
    const AttentionShape& shape = state->shape;
    const at::Tensor &qkv = saved[0], &positions = saved[1], &out = saved[2], &lse = saved[3];
    const at::Tensor d_out = gradients[0].contiguous();
    at::Tensor d_qkv = at::zeros_like(qkv);
    const ptrdiff_t to_gradient = d_qkv.data_ptr<float>() - qkv.data_ptr<float>();
    const ptrdiff_t to_d_out = d_out.data_ptr<float>() - out.data_ptr<float>();
    for_each_family(*state->plan, shape, [&](const auto& family, int64_t kv_head, float* scratch) {
      for (int64_t segment : family) {
        AttentionTask task = make_task(qkv, shape, *state->plan, segment, kv_head, out, lse);
        task.d_out = task.out + to_d_out;
        task.d_q = const_cast<float*>(task.q) + to_gradient;
        task.d_k = const_cast<float*>(task.k) + to_gradient;
        task.d_v = const_cast<float*>(task.v) + to_gradient;
        kernel_table().attention_backward(task, scratch);
      }
    });
    rotate(d_qkv, shape, positions, state->rope, true);
    return {d_qkv, at::Tensor(), at::Tensor()};
  }
};

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
  float* base = qkv.data_ptr<float>();
  const int32_t* position = positions.const_data_ptr<int32_t>();
  const float *cos = rope.cos.const_data_ptr<float>(), *sin = rope.sin.const_data_ptr<float>();
  for_each_chunk(qkv.size(0), 16, [&](int64_t, int64_t begin, int64_t end) {
    kernel_table().rope(base + begin * shape.row(), shape.row(), end - begin, shape.heads + shape.key_value_heads,
                        shape.head_dim, position + begin, cos, sin, inverse ? -1.0f : 1.0f);
  });
}

at::Tensor attention(const at::Tensor& qkv, const AttentionShape& shape, const std::vector<Segment>& segments,
                     const at::Tensor& positions, const RopeTable& rope) {
  TESSERA_CHECK(qkv.dim() == 2 && qkv.is_contiguous() && qkv.size(1) == shape.row(), "attention over ", qkv.sizes());
  auto state = c10::make_intrusive<AttentionState>();
  state->shape = shape;
  state->plan = plan_segments(segments, qkv.size(0));
  state->rope = rope;
  return AttentionFunction::apply(qkv, positions, state);
}

}  // namespace tessera::kernels
