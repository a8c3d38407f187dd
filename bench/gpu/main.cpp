// The suite of one GPU, as Markdown on standard output: products, memory-bound kernels, training. bench/gpu/run builds it, runs it and keeps
// what it says.
//   build/cuda/bin/gpu_bench [--device cuda | cpu] [--small] [--only products | memory | training]
#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "bench/gpu/measure.h"
#include "kernels/tensor_accelerator.h"
#ifdef TESSERA_CUDA
#include "parallel/nccl.h"
#endif

namespace tessera::bench {

double seconds_of(const Place& place, const std::function<void()>& call) {
  using Clock = std::chrono::steady_clock;
  const auto once = [&](int calls) {
    place.accelerator().synchronize();
    const auto begin = Clock::now();
    for (int i = 0; i < calls; ++i) call();
    place.accelerator().synchronize();
    return std::chrono::duration<double>(Clock::now() - begin).count() / calls;
  };
  (void)once(2);
  const double first = once(1), wanted = place.small ? 0.01 : 0.05;
  const int calls = std::clamp(static_cast<int>(wanted / std::max(first, 1e-6)), 1, 200);
  std::vector<double> runs;
  for (int i = 0; i < 5; ++i) runs.push_back(once(calls));
  std::nth_element(runs.begin(), runs.begin() + 2, runs.end());
  return runs[2];
}

void row(const std::vector<std::string>& cells) {
  std::printf("|");
  for (const auto& cell : cells) std::printf(" %s |", cell.c_str());
  std::printf("\n");
  std::fflush(stdout);
}

std::string number(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

}  // namespace tessera::bench

int main(int argc, char** argv) {
  using namespace tessera;
  CLI::App app("benchmarks of one GPU");
  std::string device = "cuda", only;
  bench::Place place;
  app.add_option("--device", device, "cuda, or cpu: tensor operations there")->check(CLI::IsMember({"cuda", "cpu"}));
  app.add_flag("--small", place.small, "small sizes: see whether it runs");
  app.add_option("--only", only)->check(CLI::IsMember({"products", "memory", "training"}));
  CLI11_PARSE(app, argc, argv);
  static const kernels::TensorAccelerator on_cpu(at::kCPU);
  if (device == "cpu") {
    kernels::set_accelerator(at::kCPU, &on_cpu);
  } else {
#ifdef TESSERA_CUDA
    const parallel::DeviceKind kind = parallel::make_cuda_kind();
    if (kind.count() == 0) {
      std::fprintf(stderr, "gpu_bench: no GPU on this host; --device cpu --small shows that everything runs\n");
      return 1;
    }
    kind.make_current(0);
    kernels::set_accelerator(kind.type, kind.accelerator);
    place.device = c10::Device(kind.type, 0);
#else
    std::fprintf(stderr, "gpu_bench: built without CUDA; configure with -DTESSERA_CUDA=ON, or run bench/gpu/run\n");
    return 1;
#endif
  }
  const at::NoGradGuard no_grad;
  if (only.empty() || only == "products") bench::measure_products(place);
  if (only.empty() || only == "memory") bench::measure_memory(place);
  if (only.empty() || only == "training") bench::measure_training(place);
  return 0;
}
