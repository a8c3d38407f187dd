// The limits of this machine that other figures are measured against: float32 FMA peak and memory bandwidth (triad), on all
// threads. Prints one JSON line. Compiled for the machine it is built on.
#include <omp.h>

#include <chrono>
#include <cstdio>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kFloats = 16;
#elif defined(__AVX__)
constexpr int kFloats = 8;
#else
constexpr int kFloats = 4;
#endif
typedef float Vec __attribute__((vector_size(kFloats * 4)));

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double fma_gflops() {
  constexpr int kChains = 12;  // enough independent chains to hide the latency
  constexpr long kRounds = 20'000'000;
  double best = 0;
  for (int attempt = 0; attempt < 3; ++attempt) {
    float sink = 0;
    const double start = seconds();
#pragma omp parallel reduction(+ : sink)
    {
      Vec acc[kChains];
      for (int i = 0; i < kChains; ++i) acc[i] = Vec{} + static_cast<float>(i);
      Vec a = Vec{} + 0.999f, b = Vec{} + 1e-3f;
      for (long r = 0; r < kRounds; ++r) {
#pragma GCC unroll 12
        for (int i = 0; i < kChains; ++i) acc[i] = acc[i] * a + b;
        asm volatile("" : "+x"(a), "+x"(b));
      }
      for (int i = 0; i < kChains; ++i) sink += acc[i][0];
    }
    const double gflops = 2.0 * kChains * kFloats * kRounds * omp_get_max_threads() / (seconds() - start) * 1e-9;
    if (gflops > best && sink != 12345.0f) best = gflops;
  }
  return best;
}

double triad_gbytes() {
  const long n = 32L << 20;
  std::vector<float> a(n), b(n, 1.0f), c(n, 2.0f);
  double best = 0;
  for (int attempt = 0; attempt < 5; ++attempt) {
    const double start = seconds();
#pragma omp parallel for
    for (long i = 0; i < n; ++i) a[i] = b[i] + 3.0f * c[i];
    best = std::max(best, 3.0 * 4.0 * static_cast<double>(n) / (seconds() - start) * 1e-9);
  }
  return best;
}

}  // namespace

int main() {
  std::printf("{\"threads\": %d, \"fma_gflops\": %.1f, \"triad_gbytes_per_second\": %.1f}\n", omp_get_max_threads(), fma_gflops(),
              triad_gbytes());
}
