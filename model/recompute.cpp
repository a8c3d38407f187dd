#include "model/recompute.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

namespace tessera::model {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct BodyHolder : torch::CustomClassHolder {
  RecomputedBody body;
};

// The anchor makes autograd record the node where only parameters inside are trained.
struct RecomputeFunction : torch::autograd::Function<RecomputeFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& /*anchor*/, const c10::intrusive_ptr<BodyHolder>& holder) {
    ctx->save_for_backward({x});
    ctx->saved_data["body"] = c10::IValue::make_capsule(holder);
    return holder->body(x, false);
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto holder = c10::static_intrusive_pointer_cast<BodyHolder>(ctx->saved_data["body"].toCapsule());
    const at::Tensor x = ctx->get_saved_variables()[0].detach().requires_grad_(true);
    {
      const at::AutoGradMode with_grad(true);
      torch::autograd::backward({holder->body(x, true)}, {gradients[0]});
    }
    return {x.grad(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor recomputed(const at::Tensor& x, RecomputedBody body) {
  auto holder = c10::make_intrusive<BodyHolder>();
  holder->body = std::move(body);
  return RecomputeFunction::apply(x, at::empty({0}, x.options()).requires_grad_(true), holder);
}

}  // namespace tessera::model
