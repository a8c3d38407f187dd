// The product of few rows with weights from memory, as each step of decoding makes it: all matrices of a small model in turn.
// Prints a JSON line for each number of rows: GB/s of weights and GFLOP/s, on all threads. Compare with machine_bench.
#include <ATen/Parallel.h>
#include <ATen/ops/randn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "kernels/linear.h"

namespace {

constexpr int64_t kLayers = 30;
constexpr int64_t kShapes[][2] = {{960, 576}, {576, 576}, {3072, 576}, {576, 1536}};  // SmolLM2-135M: q, k, v; o; gate, up; down

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

int main() {
  using namespace tessera::kernels;
  std::vector<LinearSpec> linears;
  double weights = 0;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    for (const auto& [out, in] : kShapes) {
      LinearSpec spec;
      spec.weight = std::make_shared<Parameter>();
      spec.weight->value = at::randn({out, in});
      weights += static_cast<double>(out * in);
      linears.push_back(std::move(spec));
    }
  }
  for (const int64_t rows : {1, 2, 4, 8, 16, 32, 64}) {
    std::vector<at::Tensor> inputs;
    for (const auto& [out, in] : kShapes) inputs.push_back(at::randn({rows, in}));
    double best = 1e30;
    for (int attempt = 0; attempt < 12; ++attempt) {
      const double start = seconds();
      for (size_t i = 0; i < linears.size(); ++i) (void)linear_decode(inputs[i % inputs.size()], linears[i]);
      best = std::min(best, seconds() - start);
    }
    std::printf("{\"rows\": %ld, \"threads\": %d, \"weight_gbytes_per_second\": %.1f, \"gflops\": %.1f}\n", static_cast<long>(rows), at::get_num_threads(),
                4e-9 * weights / best, 2e-9 * weights * static_cast<double>(rows) / best);
    std::fflush(stdout);
  }
  return 0;
}
