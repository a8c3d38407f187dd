// The CPU that plays the GPU notices what a GPU would do wrong.
#include "tests/cuda/emulation.h"

#include <gtest/gtest.h>

#include <array>
#include <stdexcept>

namespace tessera::emulation {
namespace {

int slots[256];

TEST(Emulation, RunsEveryThreadOfEveryBlock) {
  std::array<int, 3 * 2 * 2 * 64> seen{};
  run(dim3(3, 2, 2), 64, [&] { ++seen[((blockIdx.z * 2 + blockIdx.y) * 3 + blockIdx.x) * 64 + threadIdx.x]; });
  for (const int count : seen) EXPECT_EQ(count, 1);
}

TEST(Emulation, LanesExchangeAndThreadsWait) {
  std::array<int, 256> sums{}, neighbours{};
  run(dim3(1), 256, [&] {
    int x = static_cast<int>(threadIdx.x);
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0U, x, step);
    slots[threadIdx.x] = x;
    __syncthreads();
    sums[threadIdx.x] = x;
    neighbours[threadIdx.x] = slots[255 - threadIdx.x];
  });
  for (int i = 0; i < 256; ++i) {
    EXPECT_EQ(sums[static_cast<size_t>(i)], 32 * (i / 32 * 32) + 31 * 16);
    EXPECT_EQ(neighbours[static_cast<size_t>(i)], sums[static_cast<size_t>(255 - i)]);
  }
}

TEST(Emulation, AMissingBarrierShows) {
  bool wrong = false;
  for (int attempt = 0; attempt < 20; ++attempt) {
    std::fill(slots, slots + 256, -1);
    run(dim3(1), 256, [&] {
      slots[threadIdx.x] = 1;
      if (slots[255 - threadIdx.x] != 1) wrong = true;
    });
  }
  EXPECT_TRUE(wrong);
}

TEST(Emulation, DifferentBarriersThrow) {
  EXPECT_THROW(run(dim3(1), 32, [] { threadIdx.x < 16 ? __syncthreads() : __syncwarp(); }), std::logic_error);
  EXPECT_THROW(run(dim3(1), 32, [] { if (threadIdx.x != 5) __syncwarp(); }), std::logic_error);
  EXPECT_THROW(run(dim3(0), 32, [] {}), std::logic_error);
  int after = 0;
  run(dim3(1), 64, [&] { __syncthreads(); ++after; });
  EXPECT_EQ(after, 64);
}

}  // namespace
}  // namespace tessera::emulation
