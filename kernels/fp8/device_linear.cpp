#include "kernels/fp8/device_linear.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "core/error.h"
#include "kernels/accelerator.h"
#include "kernels/fp8/operands.h"
#include "kernels/rms_norm.h"

namespace tessera::kernels::fp8 {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// A linear's input in codes, and what is kept of it: of a SwiGLU's, gates and ups as rows [2T, F].
struct Input {
  Quantized u;
  SavedInput saved;
};
Input quantized_input(const Accelerator& device, const at::Tensor& x, const LinearSpec* linear, Prologue prologue, const Recipe& recipe) {
  const Scheme scheme = recipe.activation_by_row();
  if (prologue == Prologue::kRmsNorm) {
    at::Tensor rstd;
    const Quantized u = device.quantize_norm(x, linear->norm->value, linear->norm_eps, scheme, &rstd);
    return {u, {x, rstd, {}}};
  }
  if (prologue == Prologue::kSwiglu) {
    const Accelerator::QuantizedSwiglu q = device.quantize_swiglu(x, scheme);
    return {q.product, {{}, {}, q.gate_up}};
  }
  const Quantized u = device.quantize(x, scheme, false);
  return {u, {{}, {}, u}};
}

/// u as it was in front of the quantiser, as far as it was kept.
at::Tensor input_again(const Accelerator& device, const SavedInput& saved, const LinearSpec* linear, Prologue prologue, const Recipe& recipe,
                       at::ScalarType type) {
  switch (prologue) {
    case Prologue::kNone: return device.dequantize(saved.quantized, recipe.activation_by_row(), type);
    case Prologue::kRmsNorm: return rms_norm(saved.x, linear->norm->value, linear->norm_eps);
    case Prologue::kSwiglu: return device.swiglu_of_codes(saved.quantized, recipe.activation_by_row(), type);
  }
  return {};
}

void add_weight_gradient(const Accelerator& device, const at::Tensor& dy, const at::Tensor& u, const Recipe& recipe, const at::Tensor& gradient) {
  const Scheme of_dy = recipe.gradient_by_token(), of_u = recipe.activation_by_token();
  at::Tensor(gradient).add_(device.scaled_product(device.quantize(dy, of_dy, true), of_dy.transposed(), device.quantize(u, of_u, true), of_u.transposed(), at::kFloat));
}

/// u as the product had it: what adapters multiply.
at::Tensor rounded_input(const Accelerator& device, const SavedInput& saved, const LinearSpec& spec, at::ScalarType type) {
  const Scheme scheme = spec.fp8->recipe().activation_by_row();
  at::Tensor rstd;
  switch (spec.prologue) {
    case Prologue::kNone: return device.dequantize(saved.quantized, scheme, type);
    case Prologue::kRmsNorm: return device.dequantize(device.quantize_norm(saved.x, spec.norm->value, spec.norm_eps, scheme, &rstd), scheme, type);
    case Prologue::kSwiglu: return device.dequantize(device.quantize(device.swiglu_of_codes(saved.quantized, scheme, type), scheme, false), scheme, type);
  }
  return {};
}

/// Gradients of weight, bias and adapters.
void weights_backward(const Accelerator& device, const at::Tensor& dy, const SavedInput& saved, const std::vector<at::Tensor>& d_lows, const LinearSpec& spec) {
  const at::NoGradGuard no_grad;
  if (spec.weight->trainable()) {
    add_weight_gradient(device, dy, input_again(device, saved, &spec, spec.prologue, spec.fp8->recipe(), dy.scalar_type()), spec.fp8->recipe(),
                        spec.weight->open_gradient());
    spec.weight->gradient_added();
  }
  if (spec.bias && spec.bias->trainable()) {
    spec.bias->open_gradient().add_(dy.sum(0));
    spec.bias->gradient_added();
  }
  if (!spec.adapters.empty()) add_adapter_gradients(dy, rounded_input(device, saved, spec, dy.scalar_type()), d_lows, spec.adapters);
}

struct DeviceLinearFunction : torch::autograd::Function<DeviceLinearFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const std::optional<at::Tensor>& residual, const at::Tensor& /*anchor*/,
                            const LinearSpec* spec) {
    const Accelerator& device = *accelerator_of(x);
    const Recipe& recipe = spec->fp8->recipe();
    const auto [u, saved] = quantized_input(device, x, spec, spec->prologue, recipe);
    at::Tensor y = device.scaled_product(u, recipe.activation_by_row(), spec->fp8->on_device(*spec->weight).by_row, recipe.weight_scheme(), x.scalar_type());
    if (spec->bias) y.add_(spec->bias->value);
    if (residual) y.add_(*residual);
    if (!spec->adapters.empty()) add_adapters(device.dequantize(u, recipe.activation_by_row(), x.scalar_type()), spec->adapters, y);
    ctx->save_for_backward({saved.x, saved.rstd, saved.quantized.codes, saved.quantized.scales});
    ctx->saved_data["spec"] = reinterpret_cast<int64_t>(spec);
    ctx->saved_data["residual"] = residual.has_value();
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto& spec = *reinterpret_cast<const LinearSpec*>(ctx->saved_data["spec"].toInt());
    const auto kept = ctx->get_saved_variables();
    const SavedInput saved{kept[0], kept[1], {kept[2], kept[3]}};
    const at::Tensor dy = gradients[0].contiguous();
    const Accelerator& device = *accelerator_of(dy);
    const Recipe& recipe = spec.fp8->recipe();
    const auto d_lows = low_rank_gradients(dy, spec.adapters);
    if (spec.trains()) spec.weight->now_or_later([dy, saved, d_lows, &spec, &device] { weights_backward(device, dy, saved, d_lows, spec); });
    const bool norm_trains = spec.prologue == Prologue::kRmsNorm && spec.norm->trainable();
    at::Tensor dx;
    if (ctx->needs_input_grad(0) || norm_trains) {
      dx = device.scaled_product(device.quantize(dy, recipe.gradient_by_row(), false), recipe.gradient_by_row(), spec.fp8->on_device(*spec.weight).by_column,
                                 recipe.weight_scheme().transposed(), dy.scalar_type());
      add_input_gradient(d_lows, spec.adapters, dx);
      if (spec.prologue == Prologue::kRmsNorm) {
        dx = rms_norm_backward(dx, saved.x, spec.norm->value, saved.rstd, norm_trains ? spec.norm->open_gradient() : at::Tensor());
        if (norm_trains) spec.norm->gradient_added();
      } else if (spec.prologue == Prologue::kSwiglu) {
        dx = device.swiglu_backward_of_codes(dx, saved.quantized, recipe.activation_by_row());
      }
    }
    return {dx, ctx->saved_data["residual"].toBool() ? dy : at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

/// Codes and scales of tokens as rows of their experts; `map` null: they are.
Quantized rows_of_experts(const Accelerator& device, const Quantized& tokens, const Scheme& scheme, const RowMapPtr& map) {
  if (map == nullptr) return tokens;
  return {device.gather_rows(tokens.codes, *map), scheme.tile.whole() ? tokens.scales : device.gather_rows(tokens.scales, *map)};
}

struct GroupedState : torch::CustomClassHolder {
  const GroupedLinearSpec* spec = nullptr;
  RowGroups groups;
  RowMapPtr map;  // of tokens to rows, or null where the input is rows
};

/// A token's codes are the same in all rows that it has: it is quantised once, and kept once.
struct DeviceGroupedFp8Function : torch::autograd::Function<DeviceGroupedFp8Function> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& /*anchor*/, const c10::intrusive_ptr<GroupedState>& state) {
    const GroupedLinearSpec& spec = *state->spec;
    const Accelerator& device = *accelerator_of(x);
    const Recipe& recipe = spec.fp8->recipe();
    const auto [u, saved] = quantized_input(device, x, nullptr, spec.prologue, recipe);
    ctx->save_for_backward({saved.quantized.codes, saved.quantized.scales});
    ctx->saved_data["state"] = c10::IValue::make_capsule(state);
    return device.grouped_scaled_product(rows_of_experts(device, u, recipe.activation_by_row(), state->map), recipe.activation_by_row(), spec.fp8->on_device(*spec.weight).by_row,
                                         recipe.weight_scheme(), state->groups, x.scalar_type());
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto state = c10::static_intrusive_pointer_cast<GroupedState>(ctx->saved_data["state"].toCapsule());
    const GroupedLinearSpec& spec = *state->spec;
    const auto kept = ctx->get_saved_variables();
    const SavedInput saved{{}, {}, {kept[0], kept[1]}};
    const at::Tensor dy = gradients[0].contiguous();
    const Accelerator& device = *accelerator_of(dy);
    const Recipe& recipe = spec.fp8->recipe();
    if (spec.weight->trainable())
      spec.weight->now_or_later([dy, saved, state, &spec, &device, &recipe] {
        const at::NoGradGuard no_grad;
        const at::Tensor u = input_again(device, saved, nullptr, spec.prologue, recipe, dy.scalar_type());
        device.add_grouped_scaled_gradient(dy, recipe.gradient_by_token(), state->map == nullptr ? u : device.gather_rows(u, *state->map),
                                           recipe.activation_by_token(), state->groups, spec.weight->open_gradient());
        spec.weight->gradient_added();
      });
    if (!ctx->needs_input_grad(0)) return {at::Tensor(), at::Tensor(), at::Tensor()};
    at::Tensor dx = device.grouped_scaled_product(device.quantize(dy, recipe.gradient_by_row(), false), recipe.gradient_by_row(),
                                                  spec.fp8->on_device(*spec.weight).by_column, recipe.weight_scheme().transposed(), state->groups,
                                                  dy.scalar_type());
    if (spec.prologue == Prologue::kSwiglu) dx = device.swiglu_backward_of_codes(dx, saved.quantized, recipe.activation_by_row());
    if (state->map == nullptr) return {dx, at::Tensor(), at::Tensor()};
    at::Tensor d_tokens = at::zeros({state->map->tokens, dx.size(1)}, dx.options());
    device.add_sums(dx, *state->map, {}, d_tokens);
    return {d_tokens, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

const Weight::OnDevice& Weight::on_device(const Parameter& weight) {
  if (!is_current(weight)) {
    const Accelerator& device = *accelerator_of(weight.value);
    const at::Tensor value = weight.value.detach();
    on_device_ = {device.quantize_stack(value, recipe_.weight_scheme(), matrices_, false),
                  device.quantize_stack(value, recipe_.weight_scheme(), matrices_, true)};
  }
  return on_device_;
}

at::Tensor device_linear(const at::Tensor& x, const LinearSpec& spec, const at::Tensor& residual, const at::Tensor& anchor) {
  return DeviceLinearFunction::apply(x.contiguous(), residual.defined() ? std::optional(residual) : std::nullopt, anchor, &spec);
}

at::Tensor device_grouped_linear(const at::Tensor& x, const RowMapPtr& map, const GroupedLinearSpec& spec, const RowGroups& groups) {
  auto state = c10::make_intrusive<GroupedState>();
  state->spec = &spec;
  state->groups = groups;
  state->map = map;
  return DeviceGroupedFp8Function::apply(x, spec.weight->value, state);
}

}  // namespace tessera::kernels::fp8
