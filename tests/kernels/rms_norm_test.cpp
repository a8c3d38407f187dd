#include "kernels/rms_norm.h"

#include "test_tensors.h"

namespace tessera::kernels {
namespace {

TEST(RmsNormLayer, EqualsTheReferenceInDouble) {
  const ParameterPtr weight = random_parameter({37}, 1);
  at::Tensor x = random_tensor({50, 37}, 2).requires_grad_(true);
  const at::Tensor direction = random_tensor({50, 37}, 3);
  int calls = 0;
  weight->on_gradient = [&] { ++calls; };
  const at::Tensor y = rms_norm_layer(x, weight, 1e-5f);
  (y * direction).sum().backward();
  at::Tensor rx = reference_copy(x), rw = reference_copy(weight->value);
  const at::Tensor ry = rx * (rx.pow(2).mean(-1, true) + 1e-5).rsqrt() * rw;
  (ry * direction.to(at::kDouble)).sum().backward();
  expect_close(y.detach(), ry.detach(), 1e-6, "output");
  expect_close(x.grad(), rx.grad(), 1e-5, "input gradient");
  expect_close(weight->gradient, rw.grad(), 1e-5, "weight gradient");
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace tessera::kernels
