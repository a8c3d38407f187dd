#include "kernels/cuda/quantize.h"

#include "kernels/cuda/quantize_core.h"

namespace tessera::kernels::cuda {

namespace {

constexpr int kWarp = 32, kThreads = 256;

struct Warp {
  __device__ int lane() const { return static_cast<int>(threadIdx.x) % kWarp; }
  __device__ static constexpr int lanes() { return kWarp; }
  __device__ float max(float x) const {
    for (int step = kWarp / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFU, x, step));
    return x;
  }
};

template <typename T>
__global__ void rows_kernel(Quantize job, int64_t tiles) {
  const int64_t tile = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (tile < tiles) quantize_row_tile<T>(Warp{}, job, tile);
}

template <typename T>
__global__ void tokens_kernel(Quantize job) {
  __shared__ float shared[kTile * kPitch];
  const int64_t first_token = static_cast<int64_t>(blockIdx.y) * kTile, first_channel = static_cast<int64_t>(blockIdx.x) * kChannels;
  load_tokens<T>(job, first_token, first_channel, static_cast<int>(threadIdx.x), kThreads, shared);
  __syncthreads();
  for (int channel = static_cast<int>(threadIdx.x) / kWarp; channel < kChannels; channel += kThreads / kWarp)
    quantize_channel(Warp{}, job, first_token, first_channel, channel, shared);
}

}  // namespace

void quantize_rows(const Quantize& job) {
  const int64_t tiles = job.rows * ((job.columns + kTile - 1) / kTile), blocks = (tiles * kWarp + kThreads - 1) / kThreads;
  if (tiles == 0) return;
  const auto stream = static_cast<cudaStream_t>(job.stream);
  if (job.bfloat16) {
    rows_kernel<__nv_bfloat16><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(job, tiles);
  } else {
    rows_kernel<float><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(job, tiles);
  }
}

void quantize_tokens(const Quantize& job) {
  if (job.rows == 0 || job.columns == 0) return;
  const dim3 blocks(static_cast<unsigned>((job.columns + kChannels - 1) / kChannels), static_cast<unsigned>((job.rows + kTile - 1) / kTile));
  const auto stream = static_cast<cudaStream_t>(job.stream);
  if (job.bfloat16) {
    tokens_kernel<__nv_bfloat16><<<blocks, kThreads, 0, stream>>>(job);
  } else {
    tokens_kernel<float><<<blocks, kThreads, 0, stream>>>(job);
  }
}

}  // namespace tessera::kernels::cuda
