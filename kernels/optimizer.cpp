#include "kernels/optimizer.h"

#include <ATen/ops/scalar_tensor.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/error.h"
#include "kernels/accelerator.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/threads.h"

namespace tessera::kernels {

AdamWFactors factors_of(const AdamWStep& s) {
  const auto correction1 = static_cast<float>(1.0 - std::pow(s.beta1, static_cast<double>(s.step)));
  const auto correction2 = static_cast<float>(std::sqrt(1.0 - std::pow(s.beta2, static_cast<double>(s.step))));
  const auto lr = static_cast<float>(s.lr);
  return {.beta1 = static_cast<float>(s.beta1), .beta2 = static_cast<float>(s.beta2), .eps = static_cast<float>(s.eps),
          .gradient_scale = static_cast<float>(s.gradient_scale), .keep = 1.0f,
          .step_size = lr / correction1, .inverse_root = 1.0f / correction2};
}

namespace {

void update_on_cpu(const AdamWUpdate& u, AdamWFactors factors, const AdamWStep& step) {
  factors.keep = step.keep(u.weight_decay);
  float* w = u.weight.data_ptr<float>();
  const float* g = u.gradient.const_data_ptr<float>();
  const bool wide = u.moments.exp_avg.scalar_type() == at::kFloat;
  for_each_chunk(u.weight.numel(), 4096, [&](int64_t, int64_t begin, int64_t end) {
    if (wide) {
      kernel_table().adamw(factors, w + begin, g + begin, u.moments.exp_avg.data_ptr<float>() + begin, u.moments.exp_avg_sq.data_ptr<float>() + begin,
                           end - begin);
      return;
    }
    MomentNoise noise = u.moments.noise.value_or(MomentNoise{});
    noise.first += begin;
    kernel_table().adamw_bfloat16(factors, w + begin, g + begin, static_cast<uint16_t*>(u.moments.exp_avg.data_ptr()) + begin,
                                  static_cast<uint16_t*>(u.moments.exp_avg_sq.data_ptr()) + begin, end - begin, u.moments.noise ? &noise : nullptr);
  });
}

double sum_on_cpu(const at::Tensor& values) {
  const int64_t count = values.numel();
  const float* x = values.const_data_ptr<float>();
  constexpr int64_t kBlock = int64_t{1} << 18;
  const int64_t blocks = (count + kBlock - 1) / kBlock;
  std::vector<double> sums(static_cast<size_t>(blocks));
  for_each_chunk(blocks, 1, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      sums[static_cast<size_t>(b)] = kernel_table().sum_of_squares(x + b * kBlock, std::min(kBlock, count - b * kBlock));
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace

void adamw(const std::vector<AdamWUpdate>& updates, const AdamWStep& step) {
  for (const auto& [weight, gradient, moments, decay] : updates) {
    const int64_t count = weight.numel();
    const bool wide = moments.exp_avg.scalar_type() == at::kFloat;
    TESSERA_CHECK(gradient.numel() == count && moments.exp_avg.numel() == count && moments.exp_avg_sq.numel() == count &&
                      moments.exp_avg_sq.scalar_type() == moments.exp_avg.scalar_type() &&
                      (wide ? !moments.noise.has_value() : moments.exp_avg.scalar_type() == at::kBFloat16),
                  "adamw of ", count, " elements with moments of ", moments.exp_avg.numel(), " ", moments.exp_avg.scalar_type());
  }
  if (updates.empty()) return;
  if (const Accelerator* device = accelerator_of(updates[0].weight)) return device->adamw(updates, step);
  const AdamWFactors factors = factors_of(step);
  for (const AdamWUpdate& update : updates) update_on_cpu(update, factors, step);
}

at::Tensor sum_of_squares(const std::vector<at::Tensor>& parts) {
  if (const Accelerator* device = accelerator_of(parts.at(0))) return device->sum_of_squares(parts);
  double total = 0;
  for (const at::Tensor& x : parts) total += sum_on_cpu(x);
  return at::scalar_tensor(total, at::kDouble);
}

}  // namespace tessera::kernels
