#include "kernels/linear.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "core/error.h"
#include "kernels/cpu/kernel_table.h"
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

at::Tensor product_with_residual(const at::Tensor& u, const LinearSpec& spec, const at::Tensor& residual) {
  const at::Tensor& weight = spec.weight->value;
  at::Tensor y = residual.defined() ? residual.clone() : at::empty({u.size(0), weight.size(0)}, u.options());
  gemm(u, Transpose::kNo, weight, Transpose::kYes, y, 1.0, residual.defined() ? 1.0 : 0.0);
  if (spec.bias) y.add_(spec.bias->value);
  return y;
}

void add_adapters(const at::Tensor& u, const LinearSpec& spec, at::Tensor& y) {
  for (const auto& slice : spec.adapters) {
    const at::Tensor low = product_with_transposed(u, slice.a->value);
    gemm(low, Transpose::kNo, slice.b->value, Transpose::kYes, y.slice(1, slice.out_begin, slice.out_end), slice.scale, 1.0);
  }
}

/// Gradients of the adapters' inner products u A^T, one a slice.
std::vector<at::Tensor> low_rank_gradients(const at::Tensor& dy, const LinearSpec& spec) {
  std::vector<at::Tensor> gradients;
  for (const auto& slice : spec.adapters)
    gradients.push_back(product(dy.slice(1, slice.out_begin, slice.out_end), slice.b->value).mul_(slice.scale));
  return gradients;
}

bool trains(const LinearSpec& spec) {
  if (spec.weight->trainable() || (spec.bias && spec.bias->trainable())) return true;
  for (const auto& slice : spec.adapters)
    if (slice.b->trainable()) return true;
  return false;
}

/// Gradients of weight, bias and adapters.
void weights_backward(const at::Tensor& dy, const at::Tensor& x, const std::vector<at::Tensor>& d_lows, const LinearSpec& spec) {
  at::NoGradGuard no_grad;
  const bool needs_input = spec.weight->trainable() || !spec.adapters.empty();
  const at::Tensor u = needs_input ? apply_prologue(x, spec, nullptr) : at::Tensor();
  if (spec.weight->trainable()) {
    gemm(dy, Transpose::kYes, u, Transpose::kNo, spec.weight->open_gradient(), 1.0, 1.0);
    spec.weight->gradient_added();
  }
  if (spec.bias && spec.bias->trainable()) {
    spec.bias->open_gradient().add_(dy.sum(0));
    spec.bias->gradient_added();
  }
  for (size_t i = 0; i < spec.adapters.size(); ++i) {
    const LowRankSlice& slice = spec.adapters[i];
    if (!slice.b->trainable()) continue;
    const at::Tensor low = product_with_transposed(u, slice.a->value);
    gemm(dy.slice(1, slice.out_begin, slice.out_end), Transpose::kYes, low, Transpose::kNo, slice.b->open_gradient(), slice.scale, 1.0);
    slice.b->gradient_added();
    gemm(d_lows[i], Transpose::kYes, u, Transpose::kNo, slice.a->open_gradient(), 1.0, 1.0);
    slice.a->gradient_added();
  }
}

// The parameters' values are arguments so that autograd records the node when one of them is trainable.
struct LinearFunction : torch::autograd::Function<LinearFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                            const std::optional<at::Tensor>& optional_residual, const at::Tensor& /*anchor*/,
                            const LinearSpec* spec) {
    const at::Tensor residual = optional_residual.value_or(at::Tensor());
    at::Tensor rstd;
    const at::Tensor u = apply_prologue(x, *spec, &rstd);
    at::Tensor y = product_with_residual(u, *spec, residual);
    add_adapters(u, *spec, y);
    ctx->save_for_backward({x, rstd});
    ctx->saved_data["spec"] = reinterpret_cast<int64_t>(spec);
    ctx->saved_data["residual"] = residual.defined();
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto& spec = *reinterpret_cast<const LinearSpec*>(ctx->saved_data["spec"].toInt());
    const auto saved = ctx->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor dy = gradients[0].contiguous();
    const auto d_lows = low_rank_gradients(dy, spec);
    if (trains(spec)) spec.weight->now_or_later([dy, x, d_lows, &spec] { weights_backward(dy, x, d_lows, spec); });
    const bool norm_trains = spec.prologue == Prologue::kRmsNorm && spec.norm->trainable();
    at::Tensor du;
    if (ctx->needs_input_grad(0) || norm_trains) du = product(dy, spec.weight->value);
    for (size_t i = 0; du.defined() && i < d_lows.size(); ++i)
      gemm(d_lows[i], Transpose::kNo, spec.adapters[i].a->value, Transpose::kNo, du, 1.0, 1.0);
    at::Tensor dx = du;
    if (du.defined() && spec.prologue == Prologue::kRmsNorm) {
      dx = rms_norm_backward(du, x, spec.norm->value, saved[1], norm_trains ? spec.norm->open_gradient() : at::Tensor());
      if (norm_trains) spec.norm->gradient_added();
    } else if (du.defined() && spec.prologue == Prologue::kSwiglu) {
      dx = swiglu_backward(du, x);
    }
    return {dx, ctx->saved_data["residual"].toBool() ? dy : at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

/// x w^T by a kernel that reads w once.
at::Tensor few_rows(const at::Tensor& x, const at::Tensor& w) {
  at::Tensor y = at::empty({x.size(0), w.size(0)}, x.options());
  const at::Tensor dense = x.contiguous();
  const float *px = dense.const_data_ptr<float>(), *pw = w.const_data_ptr<float>();
  float* py = y.data_ptr<float>();
  const int64_t out = w.size(0);
  for_each_part((out + kFewRowsPanel - 1) / kFewRowsPanel, [&](int64_t begin, int64_t end) {
    kernel_table().few_rows_product(px, x.size(0), x.size(1), pw, begin * kFewRowsPanel, std::min(out, end * kFewRowsPanel), py, out);
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

void await(const LinearSpec& spec) {
  spec.weight->await();
  if (spec.bias) spec.bias->await();
  if (spec.norm) spec.norm->await();
  for (const auto& slice : spec.adapters) {
    slice.a->await();
    slice.b->await();
  }
}

at::Tensor linear(const at::Tensor& x, const LinearSpec& spec, const at::Tensor& residual) {
  await(spec);
  return LinearFunction::apply(x, residual.defined() ? std::optional(residual) : std::nullopt, anchor_of(spec), &spec);
}

at::Tensor linear_prefill(const at::Tensor& x, const LinearSpec& spec, const at::Tensor& residual) {
  await(spec);
  if (x.size(0) >= kSteadyRows || x.size(0) == 0) {
    const at::Tensor u = apply_prologue(x, spec, nullptr);
    at::Tensor y = product_with_residual(u, spec, residual);
    add_adapters(u, spec, y);
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
  await(spec);
  const at::Tensor u = apply_prologue(x, spec, nullptr);
  at::Tensor y = few_rows(u, spec.weight->value);
  if (residual.defined()) y.add_(residual);
  if (spec.bias) y.add_(spec.bias->value);
  for (const auto& slice : spec.adapters)
    y.slice(1, slice.out_begin, slice.out_end).add_(few_rows(few_rows(u, slice.a->value).mul_(slice.scale), slice.b->value));
  return y;
}

}  // namespace tessera::kernels
