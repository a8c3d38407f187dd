#include "kernels/attention_core.h"

#include <cmath>

#include "core/error.h"
#include "kernels/accelerator.h"
#include "kernels/threads.h"

namespace tessera::kernels {

namespace {

/// Where the rows of operands lie.
struct RawOperands {
  RowView q, k, shared, v;
  int64_t shared_step = 0;

  explicit RawOperands(const Operands& x) : q(row_view(x.q)), k(row_view(x.k)), v(row_view(x.v)) {
    if (!x.shared.defined()) return;
    const bool per_head = x.shared.dim() == 3;
    shared = row_view(per_head ? x.shared.select(0, 0) : x.shared);
    shared_step = per_head ? x.shared.stride(0) : 0;
  }
};

AttentionTask make_task(const HeadLayout& l, const RawOperands& x, const SegmentPlan& plan, int64_t segment, int64_t kv_head,
                        const at::Tensor& out, const at::Tensor& lse) {
  const Segment& s = plan.segments[static_cast<size_t>(segment)];
  const KeyRanges& ranges = plan.ranges[static_cast<size_t>(segment)];
  const int64_t group = l.heads / l.key_value_heads, first_head = kv_head * group;
  AttentionTask task{};
  task.q = {x.q.row(s.start) + first_head * (l.key_dim + l.shared_dim), x.q.stride};
  task.k = {x.k.data + kv_head * l.key_step, x.k.stride};
  task.shared = x.shared;
  task.v = {x.v.data + kv_head * l.value_step, x.v.stride};
  task.key_dim = l.key_dim;
  task.shared_dim = l.shared_dim;
  task.value_dim = l.value_dim;
  task.group = group;
  task.range_start = ranges.starts.data();
  task.range_length = ranges.lengths.data();
  task.num_ranges = static_cast<int64_t>(ranges.starts.size());
  task.num_queries = s.length;
  task.scale = l.scale;
  const RowView rows = row_view(out);
  task.out = {rows.row(s.start) + first_head * l.value_dim, rows.stride};
  task.lse_stride = lse.size(1);
  task.lse = lse.data_ptr<float>() + first_head * task.lse_stride + s.start;
  return task;
}

void add_gradients(AttentionTask& task, const HeadLayout& l, const RawOperands& d, const Segment& s, int64_t kv_head,
                   const at::Tensor& d_out) {
  const int64_t first_head = kv_head * task.group;
  const RowView rows = row_view(d_out);
  task.d_out = {rows.row(s.start) + first_head * l.value_dim, rows.stride};
  task.d_q = {d.q.row(s.start) + first_head * (l.key_dim + l.shared_dim), d.q.stride};
  task.d_k = {d.k.data + kv_head * l.key_step, d.k.stride};
  task.d_shared = {d.shared.data + kv_head * d.shared_step, d.shared.stride};
  task.d_v = {d.v.data + kv_head * l.value_step, d.v.stride};
}

/// Runs body(segment, key/value head, scratch) over all pairs; the segments of a family stay on one thread.
template <typename Body>
void for_each_segment(const SegmentPlan& plan, const HeadLayout& l, const Body& body) {
  const int64_t floats = attention_scratch_floats(plan.longest, l.key_dim + l.shared_dim, l.value_dim);
  const int64_t tasks = static_cast<int64_t>(plan.families.size()) * l.key_value_heads;
  for_each_task(tasks, [&](int64_t task) {
    static thread_local std::vector<float> scratch;
    if (static_cast<int64_t>(scratch.size()) < floats) scratch.resize(static_cast<size_t>(floats));
    for (int64_t segment : plan.families[static_cast<size_t>(task / l.key_value_heads)])
      body(segment, task % l.key_value_heads, scratch.data());
  });
}

}  // namespace

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
    plan->longest = std::max(plan->longest, ranges.keys);
    plan->ranges.push_back(std::move(ranges));
    plan->families[static_cast<size_t>(family[i])].push_back(static_cast<int64_t>(i));
  }
  return plan;
}

RowView row_view(const at::Tensor& matrix) {
  TESSERA_CHECK(matrix.dim() == 2 && matrix.scalar_type() == at::kFloat && (matrix.size(1) <= 1 || matrix.stride(1) == 1),
                "rows of ", matrix.sizes(), " strides ", matrix.strides());
  return {matrix.data_ptr<float>(), matrix.stride(0)};
}

void attend(const HeadLayout& layout, const Operands& operands, const SegmentPlan& plan, const at::Tensor& out,
            const at::Tensor& lse) {
  if (const Accelerator* device = accelerator_of(out)) return device->attend(layout, operands, plan, out, lse);
  const RawOperands rows(operands);
  for_each_segment(plan, layout, [&](int64_t segment, int64_t kv_head, float* scratch) {
    kernel_table().attention(make_task(layout, rows, plan, segment, kv_head, out, lse), scratch);
  });
}

void attend_backward(const HeadLayout& layout, const Operands& operands, const SegmentPlan& plan, const at::Tensor& out,
                     const at::Tensor& lse, const at::Tensor& d_out, const Operands& gradients) {
  if (const Accelerator* device = accelerator_of(out)) return device->attend_backward(layout, operands, plan, out, lse, d_out, gradients);
  const RawOperands rows(operands), d(gradients);
  for_each_segment(plan, layout, [&](int64_t segment, int64_t kv_head, float* scratch) {
    AttentionTask task = make_task(layout, rows, plan, segment, kv_head, out, lse);
    add_gradients(task, layout, d, plan.segments[static_cast<size_t>(segment)], kv_head, d_out);
    kernel_table().attention_backward(task, scratch);
  });
}

void rotate_heads(const at::Tensor& x, int64_t heads, int64_t head_stride, int64_t dim, RopePairs pairs, const at::Tensor& positions,
                  const RopeTable& rope, bool inverse) {
  if (const Accelerator* device = accelerator_of(x)) return device->rotate_heads(x, heads, head_stride, dim, pairs, positions, rope, inverse);
  const RowView rows = row_view(x);
  const int32_t* position = positions.const_data_ptr<int32_t>();
  const float *cos = rope.cos.const_data_ptr<float>(), *sin = rope.sin.const_data_ptr<float>();
  for_each_chunk(x.size(0), 16, [&](int64_t, int64_t begin, int64_t end) {
    kernel_table().rope(rows.row(begin), rows.stride, end - begin, heads, head_stride, dim, pairs == RopePairs::kNeighbours,
                        position + begin, cos, sin, inverse ? -1.0f : 1.0f);
  });
}

}  // namespace tessera::kernels
