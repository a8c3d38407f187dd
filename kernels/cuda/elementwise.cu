#include "kernels/cuda/elementwise.h"

#include "kernels/cuda/formulas.h"

namespace tessera::kernels::cuda {

namespace {

constexpr int64_t kNormRows = 64;  // whose share of a weight's gradient one thread adds up

template <typename T, int N>
__global__ void swiglu_kernel(const T* gate_up, int64_t rows, int64_t width, T* out) {
  const int64_t i = thread_index() * N, row = i / width;
  if (row >= rows) return;
  const T* from = gate_up + i + row * width;
  const Pack<T, N> gates = load<N>(from), ups = load<N>(from + width);
  Pack<T, N> y;
  for (int j = 0; j < N; ++j) put(swiglu_of(widen(gates.x[j]), widen(ups.x[j])), y.x[j]);
  store(y, out + i);
}

template <typename T, int N>
__global__ void swiglu_backward_kernel(const T* d_out, const T* gate_up, int64_t rows, int64_t width, T* d_gate_up) {
  const int64_t i = thread_index() * N, row = i / width;
  if (row >= rows) return;
  const int64_t place = i + row * width;
  const Pack<T, N> gates = load<N>(gate_up + place), ups = load<N>(gate_up + place + width), d = load<N>(d_out + i);
  Pack<T, N> d_gates, d_ups;
  for (int j = 0; j < N; ++j) {
    const GateGradient gradient = swiglu_gradient(widen(d.x[j]), widen(gates.x[j]), widen(ups.x[j]));
    put(gradient.gate, d_gates.x[j]);
    put(gradient.up, d_ups.x[j]);
  }
  store(d_gates, d_gate_up + place);
  store(d_ups, d_gate_up + place + width);
}

template <typename T>
__device__ T* vector_of(const Vectors& v, int64_t index, int64_t dim) {
  return static_cast<T*>(v.data) + index / v.per_line * v.line_stride + index % v.per_line * dim;
}

template <typename T, int N, typename Group>
__global__ void rms_norm_kernel(Vectors x, const T* w, float eps, int64_t count, int64_t dim, Vectors y, float* rstd) {
  const int64_t row = Group::index();
  if (row >= count) return;
  const T* from = vector_of<T>(x, row, dim);
  const float scale = inverse_rms<N, Group>(from, dim, eps);
  if (Group::lane() == 0) rstd[row] = scale;
  if (y.data == nullptr) return;
  T* to = vector_of<T>(y, row, dim);
  for (int64_t i = Group::lane() * N; i < dim; i += Group::kLanes * N) {
    const Pack<T, N> values = load<N>(from + i), weights = load<N>(w + i);
    Pack<T, N> out;
    for (int j = 0; j < N; ++j) put(widen(values.x[j]) * scale * widen(weights.x[j]), out.x[j]);
    store(out, to + i);
  }
}

template <typename T, int N, typename Group>
__global__ void rms_norm_backward_kernel(Vectors dy, Vectors x, const T* w, const float* rstd, int64_t count, int64_t dim, Vectors dx) {
  const int64_t row = Group::index();
  if (row >= count) return;
  const T *d = vector_of<T>(dy, row, dim), *from = vector_of<T>(x, row, dim);
  T* to = vector_of<T>(dx, row, dim);
  const float scale = rstd[row];
  float inner = 0.0f;
  for (int64_t i = Group::lane() * N; i < dim; i += Group::kLanes * N) {
    const Pack<T, N> ds = load<N>(d + i), values = load<N>(from + i), weights = load<N>(w + i);
    for (int j = 0; j < N; ++j) inner += widen(ds.x[j]) * widen(weights.x[j]) * (widen(values.x[j]) * scale);
  }
  const float mean = Group::sum(inner) / static_cast<float>(dim);
  for (int64_t i = Group::lane() * N; i < dim; i += Group::kLanes * N) {
    const Pack<T, N> ds = load<N>(d + i), values = load<N>(from + i), weights = load<N>(w + i);
    Pack<T, N> out;
    for (int j = 0; j < N; ++j) put(scale * (widen(ds.x[j]) * widen(weights.x[j]) - widen(values.x[j]) * scale * mean), out.x[j]);
    store(out, to + i);
  }
}

/// A thread a column: the sum of kNormRows vectors, in their order.
template <typename T>
__global__ void norm_weight_kernel(Vectors dy, Vectors x, const float* rstd, int64_t count, int64_t dim, float* partial) {
  const int64_t part = blockIdx.x, column = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (column >= dim) return;
  const int64_t end = (part + 1) * kNormRows < count ? (part + 1) * kNormRows : count;
  float sum = 0.0f;
  for (int64_t r = part * kNormRows; r < end; ++r) sum += widen(vector_of<T>(dy, r, dim)[column]) * (widen(vector_of<T>(x, r, dim)[column]) * rstd[r]);
  partial[part * dim + column] = sum;
}

/// A thread for each pair.
template <typename T>
__global__ void rotate_kernel(Rotation r) {
  const int64_t half = r.dim / 2, i = thread_index(), pair = i % half, head = i / half % r.heads, row = i / half / r.heads;
  if (row >= r.rows) return;
  T* x = static_cast<T*>(r.x) + row * r.row_stride + head * r.head_stride;
  T &first = x[r.neighbours ? 2 * pair : pair], &second = x[r.neighbours ? 2 * pair + 1 : pair + half];
  const int64_t angle = r.positions[row] * half + pair;
  const float cos = r.cos[angle], sin = r.inverse ? -r.sin[angle] : r.sin[angle], a = widen(first), b = widen(second);
  put(a * cos - b * sin, first);
  put(b * cos + a * sin, second);
}

bool aligned(const Vectors& v, int64_t bytes) { return v.line_stride * bytes % 16 == 0 && reinterpret_cast<uintptr_t>(v.data) % 16 == 0; }

}  // namespace

void swiglu(Where where, const void* gate_up, int64_t rows, int64_t width, void* out) {
  if (rows * width == 0) return;
  typed(where.bfloat16, [&]<typename T>(T) {
    packed<T>(aligned(width, sizeof(T), gate_up, out), [&](auto n) {
      launch(where.stream, blocks_for(rows * width / n), swiglu_kernel<T, n>, static_cast<const T*>(gate_up), rows, width, static_cast<T*>(out));
    });
  });
}

void swiglu_backward(Where where, const void* d_out, const void* gate_up, int64_t rows, int64_t width, void* d_gate_up) {
  if (rows * width == 0) return;
  typed(where.bfloat16, [&]<typename T>(T) {
    packed<T>(aligned(width, sizeof(T), d_out, gate_up, d_gate_up), [&](auto n) {
      launch(where.stream, blocks_for(rows * width / n), swiglu_backward_kernel<T, n>, static_cast<const T*>(d_out), static_cast<const T*>(gate_up), rows,
             width, static_cast<T*>(d_gate_up));
    });
  });
}

void rms_norm(Where where, Vectors x, const void* w, float eps, int64_t count, int64_t dim, Vectors y, float* rstd) {
  if (count == 0) return;
  typed(where.bfloat16, [&]<typename T>(T) {
    packed<T>(aligned(dim, sizeof(T), w) && aligned(x, sizeof(T)) && aligned(y, sizeof(T)), [&](auto n) {
      grouped(dim, [&]<typename Group>(Group) {
        launch(where.stream, groups_for<Group>(count), rms_norm_kernel<T, n, Group>, x, static_cast<const T*>(w), eps, count, dim, y, rstd);
      });
    });
  });
}

int64_t norm_parts(int64_t count) { return divided_up(count, kNormRows); }

void rms_norm_backward(Where where, Vectors dy, Vectors x, const void* w, const float* rstd, int64_t count, int64_t dim, Vectors dx, float* partial) {
  if (count == 0) return;
  typed(where.bfloat16, [&]<typename T>(T) {
    if (partial != nullptr) {  // in front: dx may take dy's place
      const dim3 blocks(static_cast<unsigned>(norm_parts(count)), blocks_for(dim).x);
      launch(where.stream, blocks, norm_weight_kernel<T>, dy, x, rstd, count, dim, partial);
    }
    packed<T>(aligned(dim, sizeof(T), w) && aligned(dy, sizeof(T)) && aligned(x, sizeof(T)) && aligned(dx, sizeof(T)), [&](auto n) {
      grouped(dim, [&]<typename Group>(Group) {
        launch(where.stream, groups_for<Group>(count), rms_norm_backward_kernel<T, n, Group>, dy, x, static_cast<const T*>(w), rstd, count, dim, dx);
      });
    });
  });
}

void rotate(Where where, const Rotation& r) {
  const int64_t pairs = r.rows * r.heads * (r.dim / 2);
  if (pairs == 0) return;
  typed(where.bfloat16, [&]<typename T>(T) { launch(where.stream, blocks_for(pairs), rotate_kernel<T>, r); });
}

}  // namespace tessera::kernels::cuda
