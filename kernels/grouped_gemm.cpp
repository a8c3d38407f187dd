#include "kernels/grouped_gemm.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "core/error.h"
#include "kernels/accelerator.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/fp8/block_matrix.h"
#include "kernels/fp8/device_linear.h"
#include "kernels/fp8/operands.h"
#include "kernels/gemm.h"
#include "kernels/swiglu.h"
#include "kernels/threads.h"

namespace tessera::kernels {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kRowBlock = 512;  // rows of one product
constexpr int64_t kOutBlock = 512;  // rows of a weight's gradient in one product

/// Part [begin, end) of one expert's work: rows of x, or rows of its weight.
struct Block {
  int64_t expert, begin, end;
  double cost;
};

/// Runs body(block) on whichever thread is free, the most expensive first.
template <typename Body>
void run_blocks(std::vector<Block>& blocks, const Body& body) {
  std::stable_sort(blocks.begin(), blocks.end(), [](const Block& a, const Block& b) { return a.cost > b.cost; });
  for_each_task(static_cast<int64_t>(blocks.size()), [&](int64_t i) { body(blocks[static_cast<size_t>(i)]); });
}

/// Each expert's rows in blocks; experts without rows have none.
std::vector<Block> row_blocks(const std::vector<int64_t>& offsets) {
  std::vector<Block> blocks;
  for (size_t e = 0; e + 1 < offsets.size(); ++e)
    for (int64_t begin = offsets[e]; begin < offsets[e + 1]; begin += kRowBlock) {
      const int64_t end = std::min(begin + kRowBlock, offsets[e + 1]);
      blocks.push_back({static_cast<int64_t>(e), begin, end, static_cast<double>(end - begin)});
    }
  return blocks;
}

struct Sizes {
  int64_t in, out;
  explicit Sizes(const GroupedLinearSpec& spec) : in(spec.weight->value.size(1)), out(spec.out()) {}
};

/// The experts' weights as a product takes them: as they lie in memory, or made of codes by the thread that multiplies.
class Stack {
 public:
  explicit Stack(const at::Tensor& values) : values_(values) {}
  explicit Stack(const fp8::BlockMatrix& codes) : codes_(&codes) {}

  /// Rows [begin, end) of all; `room` holds them where they are made.
  const float* rows(int64_t begin, int64_t end, at::Tensor& room) const {
    if (codes_ == nullptr) return values_.const_data_ptr<float>() + begin * values_.size(1);
    room = at::empty({end - begin, codes_->columns()}, at::kFloat);
    codes_->write_rows(begin, end, room.data_ptr<float>());
    return room.const_data_ptr<float>();
  }

 private:
  at::Tensor values_;
  const fp8::BlockMatrix* codes_ = nullptr;
};

/// `in_fp8`: as an operand in FP8, which codes are as they are.
Stack stack_of(const GroupedLinearSpec& spec, bool in_fp8) {
  if (spec.weight->codes) return Stack(*spec.weight->codes);
  return Stack(in_fp8 ? spec.fp8->of(*spec.weight) : spec.weight->value);
}

/// Generation, where an expert has few rows: blocks of the weight's rows, so that one expert's weights are read by all threads.
void few_rows_forward(const float* x, const Stack& w, const Sizes& s, const std::vector<int64_t>& offsets, float* y) {
  std::vector<Block> blocks;
  constexpr int64_t kColumns = 64;
  for (size_t e = 0; e + 1 < offsets.size(); ++e) {
    const int64_t rows = offsets[e + 1] - offsets[e];
    if (rows == 0) continue;
    for (int64_t begin = 0; begin < s.out; begin += kColumns)
      blocks.push_back({static_cast<int64_t>(e), begin, std::min(begin + kColumns, s.out), static_cast<double>(rows)});
  }
  run_blocks(blocks, [&](const Block& b) {
    const int64_t first = offsets[static_cast<size_t>(b.expert)], rows = offsets[static_cast<size_t>(b.expert) + 1] - first;
    at::Tensor room;
    const float* weight = w.rows(b.expert * s.out + b.begin, b.expert * s.out + b.end, room);
    kernel_table().few_rows_product(x + first * s.in, rows, s.in, weight, 0, b.end - b.begin, y + first * s.out + b.begin, s.out);
  });
}

/// c [m, n] = a [m, k] times an expert's weight, transposed or not. A row's result does not depend on how many others its
/// expert has, so not on the layout either.
void steady_product(GemmSize size, const float* a, const float* weight, int64_t ld_weight, Transpose transpose, float* c) {
  const auto [m, n, k] = size;
  if (m >= kSteadyRows) return gemm(size, a, k, Transpose::kNo, weight, ld_weight, transpose, c, n, 0.0f);
  std::vector<float> padded(static_cast<size_t>(kSteadyRows * k)), result(static_cast<size_t>(kSteadyRows * n));
  std::copy(a, a + m * k, padded.begin());
  gemm({kSteadyRows, n, k}, padded.data(), k, Transpose::kNo, weight, ld_weight, transpose, result.data(), n, 0.0f);
  std::copy(result.begin(), result.begin() + m * n, c);
}

void forward_product(const at::Tensor& x, const Stack& weight, const GroupedLinearSpec& spec, const std::vector<int64_t>& offsets, bool few_rows,
                     at::Tensor& y) {
  const Sizes s(spec);
  const float* px = x.const_data_ptr<float>();
  float* py = y.data_ptr<float>();
  if (few_rows) return few_rows_forward(px, weight, s, offsets, py);
  auto blocks = row_blocks(offsets);
  run_blocks(blocks, [&](const Block& b) {
    at::Tensor room;
    const float* pw = weight.rows(b.expert * s.out, (b.expert + 1) * s.out, room);
    steady_product({b.end - b.begin, s.out, s.in}, px + b.begin * s.in, pw, s.in, Transpose::kYes, py + b.begin * s.out);
  });
}

at::Tensor input_gradient(const at::Tensor& dy, const Stack& weight, const GroupedLinearSpec& spec, const std::vector<int64_t>& offsets) {
  const Sizes s(spec);
  at::Tensor du = at::empty({dy.size(0), s.in}, dy.options());
  const float* pdy = dy.const_data_ptr<float>();
  float* pdu = du.data_ptr<float>();
  auto blocks = row_blocks(offsets);
  run_blocks(blocks, [&](const Block& b) {
    at::Tensor room;
    const float* pw = weight.rows(b.expert * s.out, (b.expert + 1) * s.out, room);
    steady_product({b.end - b.begin, s.in, s.out}, pdy + b.begin * s.out, pw, s.in, Transpose::kNo, pdu + b.begin * s.in);
  });
  return du;
}

void add_weight_gradient(const at::Tensor& dy, const at::Tensor& u, const GroupedLinearSpec& spec, const std::vector<int64_t>& offsets) {
  const Sizes s(spec);
  const float *pdy = dy.const_data_ptr<float>(), *pu = u.const_data_ptr<float>();
  float* gradient = spec.weight->open_gradient().data_ptr<float>();
  std::vector<Block> blocks;
  for (size_t e = 0; e + 1 < offsets.size(); ++e) {
    const auto rows = static_cast<double>(offsets[e + 1] - offsets[e]);
    for (int64_t begin = 0; rows > 0 && begin < s.out; begin += kOutBlock) {
      const int64_t end = std::min(begin + kOutBlock, s.out);
      blocks.push_back({static_cast<int64_t>(e), begin, end, rows * static_cast<double>(end - begin)});
    }
  }
  run_blocks(blocks, [&](const Block& b) {
    const int64_t first = offsets[static_cast<size_t>(b.expert)], rows = offsets[static_cast<size_t>(b.expert) + 1] - first;
    gemm({b.end - b.begin, s.in, rows}, pdy + first * s.out + b.begin, s.out, Transpose::kYes, pu + first * s.in, s.in, Transpose::kNo,
         gradient + (b.expert * s.out + b.begin) * s.in, s.in, 1.0f);
  });
}

fp8::InFront in_front(const GroupedLinearSpec& spec) { return {spec.prologue}; }

void weight_backward(const at::Tensor& dy, const fp8::SavedInput& saved, const GroupedLinearSpec& spec, const std::vector<int64_t>& offsets) {
  if (spec.fp8) {
    const fp8::Recipe& recipe = spec.fp8->recipe();
    add_weight_gradient(fp8::gradient_by_token(dy, recipe, offsets), fp8::input_by_token(saved, in_front(spec), recipe, offsets), spec, offsets);
  } else {
    add_weight_gradient(dy, spec.prologue == Prologue::kSwiglu ? swiglu(saved.x) : saved.x, spec, offsets);
  }
  spec.weight->gradient_added();
}

struct GroupedLinearFunction : torch::autograd::Function<GroupedLinearFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& /*anchor*/, const GroupedLinearSpec* spec,
                            const std::vector<int64_t>& offsets, PassKind kind, bool keep) {
    fp8::SavedInput saved;
    at::Tensor u;
    const bool in_fp8 = spec->fp8 && kind == PassKind::kTraining;
    if (in_fp8) {
      u = fp8::input_by_row(x, in_front(*spec), spec->fp8->recipe(), keep ? &saved : nullptr);
    } else {
      u = spec->prologue == Prologue::kSwiglu ? swiglu(x) : x;
      saved.x = x;
    }
    at::Tensor y = at::empty({x.size(0), spec->out()}, x.options());
    forward_product(u, stack_of(*spec, in_fp8), *spec, offsets, kind == PassKind::kDecode, y);
    ctx->save_for_backward({saved.x, saved.quantized.codes, saved.quantized.scales});
    ctx->saved_data["spec"] = reinterpret_cast<int64_t>(spec);
    ctx->saved_data["offsets"] = offsets;
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto& spec = *reinterpret_cast<const GroupedLinearSpec*>(ctx->saved_data["spec"].toInt());
    const auto offsets = ctx->saved_data["offsets"].toIntVector();
    const auto kept = ctx->get_saved_variables();
    const fp8::SavedInput saved{kept[0], {}, {kept[1], kept[2]}};
    const at::Tensor dy = gradients[0].contiguous();
    if (spec.weight->trainable()) spec.weight->now_or_later([dy, saved, offsets, &spec] { weight_backward(dy, saved, spec, offsets); });
    at::Tensor dx;
    if (ctx->needs_input_grad(0)) {
      dx = input_gradient(spec.fp8 ? fp8::gradient_by_row(dy, spec.fp8->recipe()) : dy, stack_of(spec, spec.fp8 != nullptr), spec, offsets);
      if (spec.prologue == Prologue::kSwiglu) dx = spec.fp8 ? fp8::swiglu_gradient(dx, saved, spec.fp8->recipe()) : swiglu_backward(dx, saved.x);
    }
    return {dx, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

/// The same on a device, where the offsets lie.
struct DeviceGroupedLinearFunction : torch::autograd::Function<DeviceGroupedLinearFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& /*anchor*/, const GroupedLinearSpec* spec, const RowGroups& groups) {
    const at::Tensor u = spec->prologue == Prologue::kSwiglu ? swiglu(x) : x;
    ctx->save_for_backward({x, groups.device_offsets});
    ctx->saved_data["spec"] = reinterpret_cast<int64_t>(spec);
    ctx->saved_data["offsets"] = groups.offsets;
    return accelerator_of(x)->grouped_product(u, spec->weight->values(), Transpose::kYes, groups);
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto& spec = *reinterpret_cast<const GroupedLinearSpec*>(ctx->saved_data["spec"].toInt());
    const auto saved = ctx->get_saved_variables();
    const at::Tensor x = saved[0], dy = gradients[0].contiguous();
    RowGroups groups(ctx->saved_data["offsets"].toIntVector());
    groups.device_offsets = saved[1];
    const Accelerator& device = *accelerator_of(dy);
    const bool gated = spec.prologue == Prologue::kSwiglu;
    if (spec.weight->trainable())
      spec.weight->now_or_later([dy, x, groups, gated, &spec, &device] {
        const at::NoGradGuard no_grad;
        device.add_grouped_gradient(dy, gated ? swiglu(x) : x, groups, spec.weight->open_gradient());
        spec.weight->gradient_added();
      });
    at::Tensor dx;
    if (ctx->needs_input_grad(0)) {
      dx = device.grouped_product(dy, spec.weight->values(), Transpose::kNo, groups);
      if (gated) dx = swiglu_backward(dx, x);
    }
    return {dx, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor grouped_linear(const at::Tensor& x, const GroupedLinearSpec& spec, const RowGroups& groups, PassKind kind) {
  if (accelerator_of(x) != nullptr) {
    spec.weight->await();
    if (spec.fp8 && kind == PassKind::kTraining) return fp8::device_grouped_linear(x, nullptr, spec, groups);
    return DeviceGroupedLinearFunction::apply(x, spec.weight->value, &spec, groups);
  }
  const std::vector<int64_t>& offsets = groups.offsets;
  const int64_t width = spec.weight->value.size(1) * (spec.prologue == Prologue::kSwiglu ? 2 : 1);
  TESSERA_CHECK(x.dim() == 2 && x.is_contiguous() && x.size(1) == width && static_cast<int64_t>(offsets.size()) == spec.experts + 1 &&
                    offsets.back() == x.size(0),
                "grouped_linear of ", x.sizes(), " by ", spec.experts, " experts of ", spec.weight->value.sizes());
  spec.weight->await();
  const bool keep = at::GradMode::is_enabled() && (spec.weight->trainable() || spec.prologue != Prologue::kNone);
  return GroupedLinearFunction::apply(x, spec.weight->value, &spec, offsets, kind, keep);
}

at::Tensor grouped_linear(const at::Tensor& tokens, const RowMapPtr& map, const GroupedLinearSpec& spec, const RowGroups& groups, PassKind kind) {
  if (accelerator_of(tokens) == nullptr || !spec.fp8 || kind != PassKind::kTraining) return grouped_linear(gather_rows(tokens, map), spec, groups, kind);
  spec.weight->await();
  return fp8::device_grouped_linear(tokens, map, spec, groups);
}

}  // namespace tessera::kernels
