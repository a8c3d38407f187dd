#include "kernels/cuda/elementwise.h"

#include "kernels/cuda/elementwise_core.h"

namespace tessera::kernels::cuda {

namespace {

constexpr int kThreads = 256, kWarp = 32;

cudaStream_t stream_of(void* stream) { return static_cast<cudaStream_t>(stream); }
unsigned blocks_for(int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

/// All threads of a block.
struct Block {
  float* shared;  // [kThreads / kWarp]
  __device__ int64_t lane() const { return threadIdx.x; }
  __device__ static constexpr int64_t lanes() { return kThreads; }
  __device__ float sum(float x) const {
    for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xFFFFFFFFU, x, step);
    __syncthreads();  // an earlier sum has been read
    if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
    __syncthreads();
    float total = 0.0f;
    for (int i = 0; i < kThreads / kWarp; ++i) total += shared[i];
    return total;
  }
};

template <typename T>
__global__ void swiglu_kernel(const T* gate_up, int64_t rows, int64_t width, T* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < rows * width) swiglu_element(gate_up, width, i / width, i % width, out);
}

template <typename T>
__global__ void swiglu_backward_kernel(const T* d_out, const T* gate_up, int64_t rows, int64_t width, T* d_gate_up) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < rows * width) swiglu_backward_element(d_out, gate_up, width, i / width, i % width, d_gate_up);
}

template <typename T>
__global__ void rms_norm_kernel(const T* x, const T* w, float eps, int64_t dim, T* y, float* rstd) {
  __shared__ float shared[kThreads / kWarp];
  const int64_t row = blockIdx.x;
  rms_norm_row(Block{shared}, x + row * dim, w, eps, dim, y + row * dim, rstd + row);
}

template <typename T>
__global__ void rms_norm_backward_kernel(const T* dy, const T* x, const T* w, const float* rstd, int64_t dim, T* dx) {
  __shared__ float shared[kThreads / kWarp];
  const int64_t row = blockIdx.x;
  rms_norm_backward_row(Block{shared}, dy + row * dim, x + row * dim, w, rstd[row], dim, dx + row * dim);
}

template <typename T>
__global__ void norm_weight_kernel(const T* dy, const T* x, const float* rstd, int64_t rows, int64_t dim, float* partial) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column < dim) norm_weight_part(dy, x, rstd, rows, dim, blockIdx.y, column, partial);
}

template <typename T>
__global__ void adamw_kernel(AdamWFactors factors, float* weight, const float* gradient, T* exp_avg, T* exp_avg_sq, int64_t count, MomentNoise noise, bool noisy) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) adamw_element(factors, weight[i], gradient[i], exp_avg[i], exp_avg_sq[i], noisy ? &noise : nullptr, i);
}

/// body of the type that activations have.
template <typename Body>
void typed(const Where& where, const Body& body) {
  where.bfloat16 ? body(Narrow{}) : body(0.0f);
}
template <typename T>
const T* as(const void* memory, T) { return static_cast<const T*>(memory); }
template <typename T>
T* as(void* memory, T) { return static_cast<T*>(memory); }

}  // namespace

void swiglu(Where where, const void* gate_up, int64_t rows, int64_t width, void* out) {
  if (rows * width == 0) return;
  typed(where, [&](auto t) { swiglu_kernel<<<blocks_for(rows * width), kThreads, 0, stream_of(where.stream)>>>(as(gate_up, t), rows, width, as(out, t)); });
}

void swiglu_backward(Where where, const void* d_out, const void* gate_up, int64_t rows, int64_t width, void* d_gate_up) {
  if (rows * width == 0) return;
  typed(where, [&](auto t) {
    swiglu_backward_kernel<<<blocks_for(rows * width), kThreads, 0, stream_of(where.stream)>>>(as(d_out, t), as(gate_up, t), rows, width, as(d_gate_up, t));
  });
}

void rms_norm(Where where, const void* x, const void* w, float eps, int64_t rows, int64_t dim, void* y, float* rstd) {
  if (rows == 0) return;
  typed(where, [&](auto t) {
    rms_norm_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream_of(where.stream)>>>(as(x, t), as(w, t), eps, dim, as(y, t), rstd);
  });
}

int64_t norm_parts(int64_t rows) { return (rows + kNormRows - 1) / kNormRows; }

void rms_norm_backward(Where where, const void* dy, const void* x, const void* w, const float* rstd, int64_t rows, int64_t dim, void* dx, float* partial) {
  if (rows == 0) return;
  typed(where, [&](auto t) {
    const auto stream = stream_of(where.stream);
    rms_norm_backward_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(as(dy, t), as(x, t), as(w, t), rstd, dim, as(dx, t));
    if (partial == nullptr) return;
    const dim3 blocks(blocks_for(dim), static_cast<unsigned>(norm_parts(rows)));
    norm_weight_kernel<<<blocks, kThreads, 0, stream>>>(as(dy, t), as(x, t), rstd, rows, dim, partial);
  });
}

void adamw(void* stream, const AdamWFactors& factors, float* weight, const float* gradient, void* exp_avg, void* exp_avg_sq, bool narrow, int64_t count,
           const MomentNoise* noise) {
  if (count == 0) return;
  typed({narrow, stream}, [&](auto t) {
    adamw_kernel<<<blocks_for(count), kThreads, 0, stream_of(stream)>>>(factors, weight, gradient, as(exp_avg, t), as(exp_avg_sq, t), count,
                                                                       noise == nullptr ? MomentNoise{} : *noise, noise != nullptr);
  });
}

}  // namespace tessera::kernels::cuda
