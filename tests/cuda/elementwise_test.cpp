// As quantize_test.cpp: the arithmetic and indices of kernels that pass over memory once, on a CPU.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "kernels/cuda/elementwise_core.h"
#include "kernels/tensor_accelerator.h"

namespace tessera::kernels::cuda {
namespace {

struct OneThread {
  static constexpr int64_t lane() { return 0; }
  static constexpr int64_t lanes() { return 1; }
  static float sum(float x) { return x; }
};

at::Tensor normal(std::vector<int64_t> shape, uint64_t seed, at::ScalarType type = at::kFloat) {
  auto generator = at::detail::createCPUGenerator(seed);
  return at::randn(shape, generator, at::kFloat).to(type);
}

void expect_near(const at::Tensor& actual, const at::Tensor& expected, double tolerance, const char* what) {
  const at::Tensor a = actual.to(at::kDouble), e = expected.to(at::kDouble);
  EXPECT_LE((a - e).norm().item<double>(), tolerance * e.norm().item<double>()) << what;
}

template <typename T>
class CudaElementwise : public testing::Test {
 protected:
  static constexpr at::ScalarType kType = sizeof(T) == 2 ? at::kBFloat16 : at::kFloat;
  static constexpr double kTolerance = sizeof(T) == 2 ? 3e-3 : 1e-6;  // LibTorch rounds between its operations nowhere either: one last rounding
  static T* raw(const at::Tensor& x) { return static_cast<T*>(x.data_ptr()); }
  const TensorAccelerator twin_{at::kCPU};
};
using Types = testing::Types<float, Narrow>;
TYPED_TEST_SUITE(CudaElementwise, Types);

TYPED_TEST(CudaElementwise, Swiglu) {
  constexpr int64_t kRows = 7, kWidth = 33;
  const at::Tensor gate_up = normal({kRows, 2 * kWidth}, 1, this->kType), d = normal({kRows, kWidth}, 2, this->kType);
  const at::Tensor out = at::empty_like(d), gradient = at::empty_like(gate_up);
  for (int64_t row = 0; row < kRows; ++row)
    for (int64_t column = 0; column < kWidth; ++column) {
      swiglu_element(this->raw(gate_up), kWidth, row, column, this->raw(out));
      swiglu_backward_element(this->raw(d), this->raw(gate_up), kWidth, row, column, this->raw(gradient));
    }
  expect_near(out, this->twin_.swiglu(gate_up), this->kTolerance, "forward");
  expect_near(gradient, this->twin_.swiglu_backward(d, gate_up), this->kTolerance, "backward");
}

TYPED_TEST(CudaElementwise, RmsNorm) {
  constexpr int64_t kRows = 2 * kNormRows + 5, kDim = 300;
  const at::Tensor x = normal({kRows, kDim}, 1, this->kType), w = normal({kDim}, 2, this->kType), dy = normal({kRows, kDim}, 3, this->kType);
  const int64_t parts = (kRows + kNormRows - 1) / kNormRows;
  const at::Tensor y = at::empty_like(x), dx = at::empty_like(x), rstd = at::empty({kRows}), partial = at::full({parts, kDim}, NAN);
  for (int64_t row = 0; row < kRows; ++row) {
    const int64_t at = row * kDim;
    rms_norm_row(OneThread{}, this->raw(x) + at, this->raw(w), 1e-5f, kDim, this->raw(y) + at, rstd.data_ptr<float>() + row);
    rms_norm_backward_row(OneThread{}, this->raw(dy) + at, this->raw(x) + at, this->raw(w), rstd.data_ptr<float>()[row], kDim, this->raw(dx) + at);
  }
  for (int64_t part = 0; part < parts; ++part)
    for (int64_t column = 0; column < kDim; ++column)
      norm_weight_part(this->raw(dy), this->raw(x), rstd.data_ptr<float>(), kRows, kDim, part, column, partial.data_ptr<float>());
  at::Tensor expected_rstd;
  const at::Tensor expected = this->twin_.rms_norm(x, w, 1e-5f, &expected_rstd), dw = at::zeros({kDim});
  expect_near(y, expected, this->kTolerance, "y");
  expect_near(rstd, expected_rstd, 1e-6, "rstd");
  expect_near(dx, this->twin_.rms_norm_backward(dy, x, w, expected_rstd, dw), this->kTolerance, "dx");
  expect_near(partial.sum(0), dw, 1e-5, "dw");
}

TYPED_TEST(CudaElementwise, AdamW) {
  constexpr int64_t kCount = 5001;
  for (const bool stochastic : {false, true}) {
    if (stochastic && sizeof(TypeParam) != 2) continue;
    const MomentNoise noise{0x123456789ABCDEF, (int64_t{1} << 32) - 100};
    const AdamWStep step{.lr = 1e-2, .weight_decay = 0.1, .step = 3, .gradient_scale = 0.7};
    const at::Tensor gradient = normal({kCount}, 1);
    const at::Tensor weight = normal({kCount}, 2), m = normal({kCount}, 3).mul(0.1).to(this->kType), v = normal({kCount}, 4).square().to(this->kType);
    const at::Tensor expected = weight.clone(), expected_m = m.clone(), expected_v = v.clone();
    this->twin_.adamw(expected, gradient, {expected_m, expected_v, stochastic ? &noise : nullptr}, step);
    for (int64_t i = 0; i < kCount; ++i)
      adamw_element(factors_of(step), weight.data_ptr<float>()[i], gradient.data_ptr<float>()[i], this->raw(m)[i], this->raw(v)[i],
                    stochastic ? &noise : nullptr, i);
    expect_near(weight, expected, 1e-6, "weight");
    // A last bit of float32 seldom moves a rounding.
    EXPECT_LE(m.sub(expected_m).abs().gt(1e-6).to(at::kDouble).mean().template item<double>(), 0.002);
    EXPECT_LE(v.sub(expected_v).abs().gt(1e-6).to(at::kDouble).mean().template item<double>(), 0.002);
  }
}

}  // namespace
}  // namespace tessera::kernels::cuda
