// What the parts of the GPU benchmark share.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <functional>
#include <string>

#include "kernels/accelerator.h"

namespace tessera::bench {

struct Place {
  c10::Device device = at::kCPU;
  bool small = false;  // sizes for a machine without a GPU, to see that everything runs
  [[nodiscard]] const kernels::Accelerator& accelerator() const { return *kernels::accelerator_of(device.type()); }
  [[nodiscard]] at::Tensor random(at::IntArrayRef shape, at::ScalarType type = at::kBFloat16) const {
    return at::randn(shape, at::TensorOptions(at::kFloat).device(device)).to(type);
  }
};

/// Seconds of one call: the median of runs that last long enough together, behind a warm-up.
[[nodiscard]] double seconds_of(const Place& place, const std::function<void()>& call);

/// A line of a table in Markdown.
void row(const std::vector<std::string>& cells);
[[nodiscard]] std::string number(double value, int digits = 1);

void measure_products(const Place& place);
void measure_memory(const Place& place);
void measure_training(const Place& place);

}  // namespace tessera::bench
