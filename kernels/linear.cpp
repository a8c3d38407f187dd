#include "kernels/linear.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "kernels/accelerator.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/fp8/block_matrix.h"
#include "kernels/fp8/device_linear.h"
#include "kernels/fp8/operands.h"
#include "kernels/gemm.h"
#include "kernels/rms_norm.h"
#include "kernels/swiglu.h"
#include "kernels/threads.h"

namespace tessera::kernels {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kFewRowsPanel = 32;  // weight rows a thread takes at least

at::Tensor apply_prologue(const at::Tensor& x, const LinearSpec& spec, at::Tensor* rstd) {
  switch (spec.prologue) {
    case Prologue::kNone: return x;
    case Prologue::kRmsNorm: return rms_norm(x, spec.norm->value, spec.norm_eps, rstd);
    case Prologue::kSwiglu: return swiglu(x);
  }
  return x;
}

fp8::InFront in_front(const LinearSpec& spec) { return {spec.prologue, spec.norm.get(), spec.norm_eps}; }

at::Tensor weight_operand(const LinearSpec& spec) { return spec.fp8 ? spec.fp8->of(*spec.weight) : spec.weight->values(); }

at::Tensor product_with_residual(const at::Tensor& u, const at::Tensor& weight, const LinearSpec& spec, const at::Tensor& residual) {
  at::Tensor y = residual.defined() ? residual.clone() : at::empty({u.size(0), weight.size(0)}, u.options());
  gemm(u, Transpose::kNo, weight, Transpose::kYes, y, 1.0, residual.defined() ? 1.0 : 0.0);
  if (spec.bias) y.add_(spec.bias->value);
  return y;
}

using RowStarts = std::vector<int64_t>;

/// The input as the adapters, and the weight's gradient in float32, take it.
at::Tensor saved_input(const fp8::SavedInput& saved, const LinearSpec& spec) {
  const bool needed = !spec.adapters.empty() || (spec.weight->trainable() && !spec.fp8);
  if (!needed) return {};
  return spec.fp8 ? fp8::input_by_row(saved, in_front(spec), spec.fp8->recipe()) : apply_prologue(saved.x, spec, nullptr);
}

void add_weight_gradient(const at::Tensor& dy, const at::Tensor& u, const fp8::SavedInput& saved, const RowStarts& starts, const LinearSpec& spec) {
  const auto add = [&](const at::Tensor& left, const at::Tensor& right) {
    gemm(left, Transpose::kYes, right, Transpose::kNo, spec.weight->open_gradient(), 1.0, 1.0);
  };
  if (spec.fp8) {
    const fp8::Recipe& recipe = spec.fp8->recipe();
    add(fp8::gradient_by_token(dy, recipe, starts), fp8::input_by_token(saved, in_front(spec), recipe, starts));
  } else {
    add(dy, u);
  }
  spec.weight->gradient_added();
}

/// Gradients of weight, bias and adapters.
void weights_backward(const at::Tensor& dy, const fp8::SavedInput& saved, const std::vector<at::Tensor>& d_lows, const RowStarts& starts,
                      const LinearSpec& spec) {
  at::NoGradGuard no_grad;
  const at::Tensor u = saved_input(saved, spec);
  if (spec.weight->trainable()) add_weight_gradient(dy, u, saved, starts, spec);
  if (spec.bias && spec.bias->trainable()) {
    spec.bias->open_gradient().add_(dy.sum(0));
    spec.bias->gradient_added();
  }
  add_adapter_gradients(dy, u, d_lows, spec.adapters);
}

// The parameters' values are arguments so that autograd records the node when one of them is trainable.
struct LinearFunction : torch::autograd::Function<LinearFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                            const std::optional<at::Tensor>& optional_residual, const at::Tensor& /*anchor*/,
                            const LinearSpec* spec, const RowStarts& starts, bool keep) {
    const at::Tensor residual = optional_residual.value_or(at::Tensor());
    fp8::SavedInput saved;
    at::Tensor u;
    if (spec->fp8) {
      u = fp8::input_by_row(x, in_front(*spec), spec->fp8->recipe(), keep ? &saved : nullptr);
    } else {
      saved.x = x;
      u = apply_prologue(x, *spec, &saved.rstd);
    }
    at::Tensor y = product_with_residual(u, weight_operand(*spec), *spec, residual);
    add_adapters(u, spec->adapters, y);
    ctx->save_for_backward({saved.x, saved.rstd, saved.quantized.codes, saved.quantized.scales});
    ctx->saved_data["spec"] = reinterpret_cast<int64_t>(spec);
    ctx->saved_data["residual"] = residual.defined();
    if (spec->fp8) ctx->saved_data["starts"] = starts;
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto& spec = *reinterpret_cast<const LinearSpec*>(ctx->saved_data["spec"].toInt());
    const auto kept = ctx->get_saved_variables();
    const fp8::SavedInput saved{kept[0], kept[1], {kept[2], kept[3]}};
    const RowStarts starts = spec.fp8 ? ctx->saved_data["starts"].toIntVector() : RowStarts();
    const at::Tensor dy = gradients[0].contiguous();
    const auto d_lows = low_rank_gradients(dy, spec.adapters);
    if (spec.trains()) spec.weight->now_or_later([dy, saved, d_lows, starts, &spec] { weights_backward(dy, saved, d_lows, starts, spec); });
    const bool norm_trains = spec.prologue == Prologue::kRmsNorm && spec.norm->trainable();
    at::Tensor du;
    if (ctx->needs_input_grad(0) || norm_trains)
      du = product(spec.fp8 ? fp8::gradient_by_row(dy, spec.fp8->recipe()) : dy, weight_operand(spec));
    if (du.defined()) add_input_gradient(d_lows, spec.adapters, du);
    at::Tensor dx = du;
    if (du.defined() && spec.prologue == Prologue::kRmsNorm) {
      dx = rms_norm_backward(du, saved.x, spec.norm->value, saved.rstd, norm_trains ? spec.norm->open_gradient() : at::Tensor());
      if (norm_trains) spec.norm->gradient_added();
    } else if (du.defined() && spec.prologue == Prologue::kSwiglu) {
      dx = spec.fp8 ? fp8::swiglu_gradient(du, saved, spec.fp8->recipe()) : swiglu_backward(du, saved.x);
    }
    return {dx, ctx->saved_data["residual"].toBool() ? dy : at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

/// x w^T by a kernel that reads w once. Rows of codes are made panel by panel.
at::Tensor few_rows(const at::Tensor& x, const Parameter& w) {
  const int64_t out = w.value.size(0), in = x.size(1);
  at::Tensor y = at::empty({x.size(0), out}, x.options());
  const at::Tensor dense = x.contiguous();
  const float* px = dense.const_data_ptr<float>();
  float* py = y.data_ptr<float>();
  for_each_part((out + kFewRowsPanel - 1) / kFewRowsPanel, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kFewRowsPanel, last = std::min(out, end * kFewRowsPanel);
    if (!w.codes) return kernel_table().few_rows_product(px, x.size(0), in, w.value.const_data_ptr<float>(), first, last, py, out);
    std::vector<float> panel(static_cast<size_t>(kFewRowsPanel * in));
    for (int64_t row = first; row < last; row += kFewRowsPanel) {
      const int64_t count = std::min(kFewRowsPanel, last - row);
      w.codes->write_rows(row, row + count, panel.data());
      kernel_table().few_rows_product(px, x.size(0), in, panel.data(), 0, count, py + row, out);
    }
  });
  return y;
}

at::Tensor anchor_of(const LinearSpec& spec) {
  if (spec.weight->trainable()) return spec.weight->value;
  for (const auto& slice : spec.adapters)
    if (slice.b->trainable()) return slice.b->value;
  return spec.weight->value;
}

}  // namespace

bool LinearSpec::trains() const {
  if (weight->trainable() || (bias && bias->trainable())) return true;
  return std::any_of(adapters.begin(), adapters.end(), [](const LowRankSlice& slice) { return slice.b->trainable(); });
}

void await(const LinearSpec& spec) {
  spec.weight->await();
  if (spec.bias) spec.bias->await();
  if (spec.norm) spec.norm->await();
  for (const auto& slice : spec.adapters) {
    slice.a->await();
    slice.b->await();
  }
}

at::Tensor linear(const at::Tensor& x, const LinearSpec& spec, const at::Tensor& residual, const std::vector<int64_t>& row_starts) {
  await(spec);
  if (spec.fp8 && accelerator_of(x) != nullptr) return fp8::device_linear(x, spec, residual, anchor_of(spec));
  const bool keep = at::GradMode::is_enabled() && (spec.trains() || spec.prologue != Prologue::kNone);
  return LinearFunction::apply(x, residual.defined() ? std::optional(residual) : std::nullopt, anchor_of(spec), &spec, row_starts, keep);
}

at::Tensor linear_prefill(const at::Tensor& x, const LinearSpec& spec, const at::Tensor& residual) {
  await(spec);
  if (x.size(0) >= kSteadyRows || x.size(0) == 0 || accelerator_of(x) != nullptr) {
    const at::Tensor u = apply_prologue(x, spec, nullptr);
    at::Tensor y = product_with_residual(u, spec.weight->values(), spec, residual);
    add_adapters(u, spec.adapters, y);
    return y;
  }
  const auto padded = [](const at::Tensor& t) {
    if (!t.defined()) return t;
    at::Tensor rows = at::zeros({kSteadyRows, t.size(1)}, t.options());
    rows.narrow(0, 0, t.size(0)).copy_(t);
    return rows;
  };
  return linear_prefill(padded(x), spec, padded(residual)).narrow(0, 0, x.size(0));
}

at::Tensor linear_decode(const at::Tensor& x, const LinearSpec& spec, const at::Tensor& residual) {
  if (accelerator_of(x) != nullptr) return linear_prefill(x, spec, residual);
  await(spec);
  const at::Tensor u = apply_prologue(x, spec, nullptr);
  at::Tensor y = few_rows(u, *spec.weight);
  if (residual.defined()) y.add_(residual);
  if (spec.bias) y.add_(spec.bias->value);
  for (const auto& slice : spec.adapters)
    y.slice(1, slice.out_begin, slice.out_end).add_(few_rows(few_rows(u, *slice.a).mul_(slice.scale), *slice.b));
  return y;
}

}  // namespace tessera::kernels
