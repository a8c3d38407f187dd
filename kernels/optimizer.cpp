#include "kernels/optimizer.h"

#include <cmath>
#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/threads.h"

namespace tessera::kernels {

void adamw(float* weight, const float* gradient, float* exp_avg, float* exp_avg_sq, int64_t count,
           const AdamWStep& s) {
  const auto correction1 = static_cast<float>(1.0 - std::pow(s.beta1, static_cast<double>(s.step)));
  const auto correction2 = static_cast<float>(std::sqrt(1.0 - std::pow(s.beta2, static_cast<double>(s.step))));
  for_each_chunk(count, 4096, [&](int64_t, int64_t begin, int64_t end) {
    kernel_table().adamw(weight + begin, gradient + begin, exp_avg + begin, exp_avg_sq + begin, end - begin,
                         static_cast<float>(s.lr), static_cast<float>(s.beta1), static_cast<float>(s.beta2),
                         static_cast<float>(s.eps), static_cast<float>(s.weight_decay), correction1, correction2,
                         static_cast<float>(s.gradient_scale));
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
