// Helpers of the kernels' tests: random tensors and parameters, and comparison.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "kernels/parameter.h"

namespace tessera::kernels {

inline at::Tensor random_tensor(std::vector<int64_t> shape, int64_t seed) {
  auto generator = at::detail::createCPUGenerator(static_cast<uint64_t>(seed));
  return at::randn(shape, generator, at::kFloat);
}

/// Trainable, with a zero gradient.
inline ParameterPtr random_parameter(std::vector<int64_t> shape, int64_t seed, double scale = 1.0) {
  auto parameter = std::make_shared<Parameter>();
  parameter->value = random_tensor(shape, seed).mul_(scale).requires_grad_(true);
  parameter->gradient = at::zeros(shape, at::kFloat);
  return parameter;
}

/// A double copy that autograd follows, for reference computations.
inline at::Tensor reference_copy(const at::Tensor& t) { return t.detach().to(at::kDouble).requires_grad_(true); }

inline void expect_close(const at::Tensor& actual, const at::Tensor& expected, double tolerance, const char* what) {
  ASSERT_EQ(actual.numel(), expected.numel()) << what;
  if (expected.numel() == 0) return;
  const double scale = std::max(1.0, expected.abs().max().item<double>());
  const double error = (actual.to(at::kDouble) - expected.to(at::kDouble)).abs().max().item<double>();
  EXPECT_LE(error, tolerance * scale) << what;
}

}  // namespace tessera::kernels
