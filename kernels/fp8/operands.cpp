#include "kernels/fp8/operands.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "kernels/cpu/kernel_table.h"
#include "kernels/threads.h"

namespace tessera::kernels::fp8 {

namespace {

/// x normed; `rstd`, if defined, receives the rows' factors.
RowSource normed_rows(const at::Tensor& x, const InFront& front, const at::Tensor& rstd) {
  const int64_t columns = x.size(1);
  return {x.size(0), columns, [=, from = x.const_data_ptr<float>(), weight = front.norm->value.const_data_ptr<float>(), eps = front.eps,
                               factors = rstd.defined() ? rstd.data_ptr<float>() : nullptr](int64_t begin, int64_t end, float* room) {
            kernel_table().rms_norm(from + begin * columns, nullptr, weight, eps, end - begin, columns, nullptr, room,
                                    factors == nullptr ? nullptr : factors + begin);
            return static_cast<const float*>(room);
          }};
}

/// The gate and up rows [2T, F] of so many tokens, in a thread's own memory where they have to be made.
const float* gate_up_rows(const RowSource& gate_up, int64_t begin, int64_t end) {
  thread_local std::vector<float> room;
  room.resize(std::max(room.size(), static_cast<size_t>(2 * (end - begin) * gate_up.columns)));
  return gate_up.make(2 * begin, 2 * end, room.data());
}

RowSource swiglu_rows(RowSource gate_up) {
  const int64_t tokens = gate_up.rows / 2, width = gate_up.columns;
  return {tokens, width, [gate_up = std::move(gate_up), width](int64_t begin, int64_t end, float* room) {
            kernel_table().swiglu(gate_up_rows(gate_up, begin, end), end - begin, width, room);
            return static_cast<const float*>(room);
          }};
}

RowSource saved_rows(const SavedInput& saved, const InFront& front, const Recipe& recipe) {
  switch (front.prologue) {
    case Prologue::kNone: return rows_of(saved.quantized, recipe.activation_by_row());
    case Prologue::kRmsNorm: return normed_rows(saved.x, front, {});
    case Prologue::kSwiglu: return swiglu_rows(rows_of(saved.quantized, recipe.activation_by_row()));
  }
  return {};
}

}  // namespace

bool Weight::is_current(const Parameter& weight) {
  const uint64_t tensor_version = weight.value._version();
  if (made_ && version_ == weight.version && tensor_version_ == tensor_version) return true;
  made_ = true;
  version_ = weight.version;
  tensor_version_ = tensor_version;
  return false;
}

at::Tensor Weight::of(const Parameter& weight) {
  if (weight.codes) return weight.values();
  if (!recipe_.weight_scheme().scaled()) return weight.value;  // its owner rounds it
  if (!is_current(weight)) value_ = rounded_stack(weight.value.detach(), recipe_.weight_scheme(), matrices_);
  return value_;
}

at::Tensor input_by_row(const at::Tensor& input, const InFront& front, const Recipe& recipe, SavedInput* saved) {
  const at::Tensor x = input.contiguous();
  const Scheme scheme = recipe.activation_by_row();
  if (front.prologue == Prologue::kNone) return rounded(rows_of(x), scheme, saved == nullptr ? nullptr : &saved->quantized);
  if (front.prologue == Prologue::kSwiglu) {
    const at::Tensor gate_up = x.view({2 * x.size(0), x.size(1) / 2});
    if (saved != nullptr) saved->quantized = quantize(gate_up, scheme);
    return rounded(swiglu_rows(rows_of(gate_up)), scheme);
  }
  SavedInput kept{x, at::empty({x.size(0)}, x.options()), {}};
  const at::Tensor u = rounded(normed_rows(x, front, kept.rstd), scheme);
  if (saved != nullptr) *saved = std::move(kept);
  return u;
}

at::Tensor input_by_row(const SavedInput& saved, const InFront& front, const Recipe& recipe) {
  if (front.prologue == Prologue::kNone) return dequantize(saved.quantized, recipe.activation_by_row());
  return rounded(saved_rows(saved, front, recipe), recipe.activation_by_row());
}

at::Tensor input_by_token(const SavedInput& saved, const InFront& front, const Recipe& recipe, const std::vector<int64_t>& starts) {
  const Scheme scheme = recipe.activation_by_token();
  // One scale for all serves both ways.
  if ((scheme.tile.whole() || !scheme.scaled()) && front.prologue == Prologue::kNone) return dequantize(saved.quantized, scheme);
  return rounded_along_rows(saved_rows(saved, front, recipe), scheme, starts);
}

at::Tensor swiglu_gradient(const at::Tensor& du, const SavedInput& saved, const Recipe& recipe) {
  const RowSource gate_up = rows_of(saved.quantized, recipe.activation_by_row());
  const int64_t tokens = du.size(0), width = du.size(1);
  at::Tensor gradient = at::empty({tokens, 2 * width}, du.options());
  const float* from = du.const_data_ptr<float>();
  float* to = gradient.data_ptr<float>();
  constexpr int64_t kTokensAtOnce = 8;
  for_each_chunk(tokens, kTokensAtOnce, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t += kTokensAtOnce) {
      const int64_t count = std::min(kTokensAtOnce, end - t);
      kernel_table().swiglu_backward(from + t * width, gate_up_rows(gate_up, t, t + count), count, width, to + t * 2 * width);
    }
  });
  return gradient;
}

}  // namespace tessera::kernels::fp8
