// The quantisers' arithmetic and indices on a CPU, where one thread is all lanes of a warp and all threads of a block; accelerator_test.cpp runs
// the kernels themselves where there is a GPU.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "kernels/cuda/quantize_core.h"
#include "kernels/fp8/quantize.h"
#include "tests/kernels/hard_numbers.h"

namespace tessera::kernels::cuda {
namespace {

struct Alone {
  static constexpr int lane() { return 0; }
  static constexpr int lanes() { return 1; }
  static float max(float x) { return x; }
};

template <typename T>
void all_rows(const Quantize& job) {
  const int64_t tiles = job.rows * ((job.columns + kTile - 1) / kTile);
  for (int64_t tile = 0; tile < tiles; ++tile) quantize_row_tile<T>(Alone{}, job, tile);
}

template <typename T>
void all_tokens(const Quantize& job) {
  std::vector<float> shared(kTile * kPitch);
  for (int64_t token = 0; token < job.rows; token += kTile)
    for (int64_t channel = 0; channel < job.columns; channel += kChannels) {
      for (int thread = 0; thread < 256; ++thread) load_tokens<T>(job, token, channel, thread, 256, shared.data());
      for (int c = 0; c < kChannels; ++c) quantize_channel(Alone{}, job, token, channel, c, shared.data());
    }
}

/// All NaN are alike.
bool same_numbers(const at::Tensor& codes, const at::Tensor& expected) {
  const at::Tensor a = codes.to(at::kFloat), e = expected.to(at::kFloat);
  return at::logical_or(at::logical_and(a.eq(e), a.signbit().eq(e.signbit())), at::logical_and(a.isnan(), e.isnan())).all().item<bool>();
}

TEST(CudaQuantise, HasTheBitsOfTheCpu) {
  uint64_t seed = 0;
  for (const bool powers : {false, true})
    for (const bool narrow : {false, true})
      for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 1}, {3, 300}, {130, 33}, {257, 129}, {128, 256}}) {
        at::Tensor x = fp8::hard_numbers(rows, columns, ++seed);
        if (narrow) x = x.to(at::kBFloat16);
        const fp8::Scheme by_row{fp8::Format::kE4m3, {1, kTile}, powers}, by_token{fp8::Format::kE4m3, {kTile, 1}, powers};
        Quantize job{.x = x.const_data_ptr(), .bfloat16 = narrow, .rows = rows, .columns = columns, .power_of_two_scales = powers};
        {
          const auto expected = fp8::quantize(x.to(at::kFloat), by_row);
          const at::Tensor codes = at::empty({rows, columns}, at::kFloat8_e4m3fn), scales = at::empty(expected.scales.sizes());
          job.codes = static_cast<uint8_t*>(codes.data_ptr()), job.scales = scales.data_ptr<float>();
          narrow ? all_rows<__nv_bfloat16>(job) : all_rows<float>(job);
          EXPECT_TRUE(scales.equal(expected.scales)) << seed;
          EXPECT_TRUE(same_numbers(codes, expected.codes)) << seed;
        }
        {
          const auto expected = fp8::quantize(x.to(at::kFloat), by_token);
          const at::Tensor codes = at::empty({columns, rows}, at::kFloat8_e4m3fn), scales = at::empty(expected.scales.t().sizes());
          job.codes = static_cast<uint8_t*>(codes.data_ptr()), job.scales = scales.data_ptr<float>();
          narrow ? all_tokens<__nv_bfloat16>(job) : all_tokens<float>(job);
          EXPECT_TRUE(scales.equal(expected.scales.t())) << seed;
          EXPECT_TRUE(same_numbers(codes, expected.codes.t().contiguous())) << seed;
        }
      }
}

}  // namespace
}  // namespace tessera::kernels::cuda
