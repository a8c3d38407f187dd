// A CPU that plays a GPU, for files of kernels/cuda/ compiled as C++ with this in front: the threads of a block are fibers that run until they
// wait for each other. Blocks, and threads between two barriers, run in a different order each time, so that a missing barrier shows as wrong
// numbers; threads that wait at different barriers, or for a lane that has left, throw.
#pragma once

#include <cuda_fp8.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define TESSERA_EMULATION
#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __forceinline__
#define __global__
#define __device__
#define __host__
#define __shared__ static  // one block runs at a time
#define __forceinline__ inline

namespace tessera::emulation {

inline dim3 thread, block, grid;  // of the thread that runs

/// All blocks, one after the other; one launch at a time.
void run(dim3 blocks, int threads, const std::function<void()>& kernel);

void wait_for_block();
void wait_for_warp();
/// What the lanes of the caller's warp gave, in their order; they stay until the exchange after the next.
const uint64_t* exchange(uint64_t value);

template <typename T>
T from_lane(T value, int lane) {
  static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  const uint64_t* all = exchange(bits);
  std::memcpy(&value, all + lane % 32, sizeof value);
  return value;
}

}  // namespace tessera::emulation

#define threadIdx ::tessera::emulation::thread
#define blockIdx ::tessera::emulation::block
#define gridDim ::tessera::emulation::grid

inline void __syncthreads() { tessera::emulation::wait_for_block(); }
inline void __syncwarp(unsigned = 0xFFFFFFFFU) { tessera::emulation::wait_for_warp(); }
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return tessera::emulation::from_lane(value, static_cast<int>(threadIdx.x % 32) ^ mask);
}
template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  return tessera::emulation::from_lane(value, lane);
}
inline unsigned __match_any_sync(unsigned, unsigned value) {
  const uint64_t* all = tessera::emulation::exchange(value);
  unsigned mask = 0;
  for (unsigned lane = 0; lane < 32; ++lane) mask |= static_cast<unsigned>(all[lane] == value) << lane;
  return mask;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
template <typename T>
T atomicAdd(T* to, T value) {
  const T before = *to;
  *to += value;
  return before;
}
