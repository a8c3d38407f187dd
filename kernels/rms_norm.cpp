#include "kernels/rms_norm.h"

#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "kernels/accelerator.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/threads.h"

namespace tessera::kernels {

namespace {
struct RmsNormFunction : torch::autograd::Function<RmsNormFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, const at::Tensor& w,
                            const Parameter* weight, double eps) {
    at::Tensor rstd;
    at::Tensor y = rms_norm(x, w, static_cast<float>(eps), &rstd);
    ctx->save_for_backward({x, rstd});
    ctx->saved_data["weight"] = reinterpret_cast<int64_t>(weight);
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list gradients) {
    const auto& weight = *reinterpret_cast<const Parameter*>(ctx->saved_data["weight"].toInt());
    const auto saved = ctx->get_saved_variables();
    const at::Tensor dx =
        rms_norm_backward(gradients[0].contiguous(), saved[0], weight.value, saved[1], weight.trainable() ? weight.open_gradient() : at::Tensor());
    if (weight.trainable()) weight.gradient_added();
    return {dx, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};
}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, float eps, at::Tensor* rstd) {
  TESSERA_CHECK(x.dim() == 2 && x.is_contiguous() && x.size(1) == w.numel(), "rms_norm of ", x.sizes());
  if (const Accelerator* device = accelerator_of(x)) return device->rms_norm(x, w, eps, rstd);
  const int64_t dim = x.size(1);
  at::Tensor y = at::empty_like(x);
  float* scales = nullptr;
  if (rstd != nullptr) {
    *rstd = at::empty({x.size(0)}, x.options());
    scales = rstd->data_ptr<float>();
  }
  const float *px = x.const_data_ptr<float>(), *pw = w.const_data_ptr<float>();
  float* py = y.data_ptr<float>();
  for_each_chunk(x.size(0), kRowsAtLeast, [&](int64_t, int64_t begin, int64_t end) {
    kernel_table().rms_norm(px + begin * dim, nullptr, pw, eps, end - begin, dim, nullptr, py + begin * dim,
                            scales == nullptr ? nullptr : scales + begin);
  });
  return y;
}

at::Tensor rms_norm_backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& w, const at::Tensor& rstd,
                             const at::Tensor& dw) {
  if (const Accelerator* device = accelerator_of(x)) return device->rms_norm_backward(dy, x, w, rstd, dw);
  const int64_t rows = x.size(0), dim = x.size(1);
  at::Tensor dx = at::empty_like(x);
  at::Tensor partial;  // one sum a thread, added up in order
  if (dw.defined()) partial = at::zeros({at::get_num_threads(), dim}, x.options());
  const float *pdy = dy.const_data_ptr<float>(), *px = x.const_data_ptr<float>(), *pw = w.const_data_ptr<float>();
  const float* scales = rstd.const_data_ptr<float>();
  float* pdx = dx.data_ptr<float>();
  for_each_chunk(rows, kRowsAtLeast, [&](int64_t chunk, int64_t begin, int64_t end) {
    float* sums = partial.defined() ? partial.data_ptr<float>() + chunk * dim : nullptr;
    kernel_table().rms_norm_backward(pdy + begin * dim, px + begin * dim, pw, scales + begin, end - begin, dim, false,
                                     pdx + begin * dim, sums);
  });
  if (dw.defined()) {
    at::Tensor target = dw;
    for (int64_t i = 0; i < partial.size(0); ++i) target.add_(partial[i]);
  }
  return dx;
}

at::Tensor rms_norm_layer(const at::Tensor& x, const ParameterPtr& weight, float eps) {
  weight->await();
  return RmsNormFunction::apply(x, weight->value, weight.get(), double{eps});
}

}  // namespace tessera::kernels
