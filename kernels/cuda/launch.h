// What kernels of our own are written with: activations of either type, accesses of 16 bytes, groups of threads, and the launch. Files that
// include this are compiled by nvcc; tests also compile them as C++ for a CPU that plays the GPU (tests/cuda/emulation.h).
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/rounding.h"

#ifdef __CUDACC__
#include <stdexcept>
#include <string>
#elif !defined(TESSERA_EMULATION)
#error "for nvcc"
#endif

namespace tessera::kernels::cuda {

constexpr int kThreads = 256, kWarp = 32, kWarps = kThreads / kWarp;  // of a block
constexpr unsigned kAllLanes = 0xFFFFFFFFU;

/// Runs kernel(arguments...) in blocks of kThreads. Throws what the driver refuses; what goes wrong later shows in LibTorch's next call.
template <typename Kernel, typename... Arguments>
void launch(void* stream, dim3 blocks, Kernel kernel, const Arguments&... arguments) {
#ifdef __CUDACC__
  kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) throw std::runtime_error(std::string("launch of a kernel: ") + cudaGetErrorString(error));
#else
  static_cast<void>(stream);
  emulation::run(blocks, kThreads, [&] { kernel(arguments...); });
#endif
}

template <typename T>
TESSERA_ANYWHERE T divided_up(T a, T b) {
  return (a + b - 1) / b;
}
inline dim3 blocks_for(int64_t threads) { return dim3(static_cast<unsigned>(divided_up<int64_t>(threads, kThreads))); }
/// Of one thread among all of the x dimension.
__device__ inline int64_t thread_index() { return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; }

/// bfloat16 as its bits: what raw memory holds.
struct Narrow {
  uint16_t bits;
};
TESSERA_ANYWHERE float widen(float x) { return x; }
TESSERA_ANYWHERE float widen(Narrow x) { return from_bfloat16(x.bits); }
TESSERA_ANYWHERE void put(float x, float& to) { to = x; }
TESSERA_ANYWHERE void put(float x, Narrow& to) { to.bits = to_bfloat16(x); }

/// N neighbours, read and written at once.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T x[N];
};
template <int N, typename T>
__device__ Pack<T, N> load(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <typename T, int N>
__device__ void store(const Pack<T, N>& pack, T* to) {
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

/// body(a number of the activations' type).
template <typename Body>
void typed(bool bfloat16, const Body& body) {
  bfloat16 ? body(Narrow{}) : body(0.0f);
}
/// body(how many T one access takes): 16 bytes where addresses and numbers between them allow it.
template <typename T, typename Body>
void packed(bool aligned, const Body& body) {
  constexpr int kWide = 16 / static_cast<int>(sizeof(T));
  aligned ? body(std::integral_constant<int, kWide>{}) : body(std::integral_constant<int, 1>{});
}
template <typename... Pointers>
bool aligned(int64_t multiple_of_elements, int64_t element_bytes, const Pointers*... pointers) {
  return multiple_of_elements * element_bytes % 16 == 0 && ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

struct Plus {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Larger {
  __device__ float operator()(float a, float b) const { return a > b ? a : b; }
};

/// The threads that work on one row together: a warp each, or a block.
struct Warp {
  static constexpr int kPerBlock = kWarps;
  __device__ static int64_t index() { return thread_index() / kWarp; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  static constexpr int kLanes = kWarp;
  /// What all lanes have, joined by `join`, which must not mind the order.
  template <typename T, typename Join>
  __device__ static T all(T x, const Join& join) {
    for (int step = kWarp / 2; step > 0; step /= 2) x = join(x, __shfl_xor_sync(kAllLanes, x, step));
    return x;
  }
  __device__ static float sum(float x) { return all(x, Plus{}); }
  __device__ static float max(float x) { return all(x, Larger{}); }
};
struct Block {
  static constexpr int kPerBlock = 1;
  __device__ static int64_t index() { return blockIdx.x; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x); }
  static constexpr int kLanes = kThreads;
  /// In the same order for all threads.
  template <typename T, typename Join>
  __device__ static T all(T x, const Join& join) {
    __shared__ T shared[kWarps];
    x = Warp::all(x, join);
    __syncthreads();  // an earlier result has been read
    if (Warp::lane() == 0) shared[lane() / kWarp] = x;
    __syncthreads();
    T total = shared[0];
    for (int i = 1; i < kWarps; ++i) total = join(total, shared[i]);
    return total;
  }
  template <typename T>
  __device__ static T sum(T x) {
    return all(x, Plus{});
  }
  __device__ static float max(float x) { return all(x, Larger{}); }
};
/// Blocks of a launch in which each of so many rows has a group.
template <typename Group>
dim3 groups_for(int64_t rows) {
  return dim3(static_cast<unsigned>(divided_up<int64_t>(rows, Group::kPerBlock)));
}
/// body(Warp{} or Block{}), by how much there is to do in a row.
template <typename Body>
void grouped(int64_t dim, const Body& body) {
  dim <= 1024 ? body(Warp{}) : body(Block{});
}

}  // namespace tessera::kernels::cuda
