#include "kernels/optimizer.h"

#include <cmath>
#include <vector>

#include "core/error.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/threads.h"

namespace tessera::kernels {

namespace {

AdamWFactors factors_of(const AdamWStep& s) {
  const auto correction1 = static_cast<float>(1.0 - std::pow(s.beta1, static_cast<double>(s.step)));
  const auto correction2 = static_cast<float>(std::sqrt(1.0 - std::pow(s.beta2, static_cast<double>(s.step))));
  const auto lr = static_cast<float>(s.lr);
  return {.beta1 = static_cast<float>(s.beta1), .beta2 = static_cast<float>(s.beta2), .eps = static_cast<float>(s.eps),
          .gradient_scale = static_cast<float>(s.gradient_scale), .keep = 1.0f - lr * static_cast<float>(s.weight_decay),
          .step_size = lr / correction1, .inverse_root = 1.0f / correction2};
}

}  // namespace

void adamw(float* weight, const float* gradient, const Moments& moments, int64_t count, const AdamWStep& step) {
  const AdamWFactors factors = factors_of(step);
  const bool wide = moments.exp_avg.scalar_type() == at::kFloat;
  TESSERA_CHECK(moments.exp_avg.numel() == count && moments.exp_avg_sq.numel() == count && moments.exp_avg_sq.scalar_type() == moments.exp_avg.scalar_type() &&
                    (wide ? moments.noise == nullptr : moments.exp_avg.scalar_type() == at::kBFloat16),
                "adamw of ", count, " elements with moments of ", moments.exp_avg.numel(), " ", moments.exp_avg.scalar_type());
  for_each_chunk(count, 4096, [&](int64_t, int64_t begin, int64_t end) {
    if (wide) {
      kernel_table().adamw(factors, weight + begin, gradient + begin, moments.exp_avg.data_ptr<float>() + begin,
                           moments.exp_avg_sq.data_ptr<float>() + begin, end - begin);
      return;
    }
    const MomentNoise noise = moments.noise == nullptr ? MomentNoise{} : MomentNoise{moments.noise->key, moments.noise->first + begin};
    kernel_table().adamw_bfloat16(factors, weight + begin, gradient + begin, static_cast<uint16_t*>(moments.exp_avg.data_ptr()) + begin,
                                  static_cast<uint16_t*>(moments.exp_avg_sq.data_ptr()) + begin, end - begin,
                                  moments.noise == nullptr ? nullptr : &noise);
  });
}

double sum_of_squares(const float* x, int64_t count) {
  constexpr int64_t kBlock = int64_t{1} << 18;
  const int64_t blocks = (count + kBlock - 1) / kBlock;
  std::vector<double> sums(static_cast<size_t>(blocks));
  for_each_chunk(blocks, 1, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      sums[static_cast<size_t>(b)] = kernel_table().sum_of_squares(x + b * kBlock, std::min(kBlock, count - b * kBlock));
  });
  double total = 0;
  for (double sum : sums) total += sum;
  return total;
}

}  // namespace tessera::kernels
