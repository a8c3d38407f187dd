#include "kernels/cuda/rows.h"

#include "kernels/cuda/launch.h"

namespace tessera::kernels::cuda {

namespace {

/// A thread for each `Word` of the rows.
template <typename Word>
__global__ void gather_kernel(const Word* x, int64_t words, const int32_t* index, int64_t divisor, int64_t rows, Word* out) {
  const int64_t i = thread_index(), row = i / words;
  if (row < rows) out[i] = x[index[row] / divisor * words + i % words];
}

template <typename T, int N>
__global__ void add_sums_kernel(const T* rows, const int32_t* row_of, const float* weights, int64_t tokens, int64_t choices, int64_t dim, T* y) {
  const int64_t i = thread_index() * N, token = i / dim, column = i % dim;
  if (token >= tokens) return;
  float sum[N] = {};
  for (int64_t slot = token * choices; slot < (token + 1) * choices; ++slot) {
    if (row_of[slot] < 0) continue;
    const float weight = weights == nullptr ? 1.0f : weights[slot];
    const Pack<T, N> row = load<N>(rows + row_of[slot] * dim + column);
    for (int j = 0; j < N; ++j) sum[j] += weight * widen(row.x[j]);
  }
  Pack<T, N> out = load<N>(y + i);
  for (int j = 0; j < N; ++j) put(widen(out.x[j]) + sum[j], out.x[j]);
  store(out, y + i);
}

template <typename T, int N, typename Group>
__global__ void sums_backward_kernel(SumsBackward job) {
  const int64_t row = Group::index();
  if (row >= job.count) return;
  const int64_t slot = job.slot_of[row], token = slot / job.choices;
  const T *dy = static_cast<const T*>(job.dy) + token * job.dim, *made = static_cast<const T*>(job.rows) + row * job.dim;
  T* d_row = static_cast<T*>(job.d_rows) + row * job.dim;
  const float weight = job.weights[slot];
  float inner = 0.0f;
  for (int64_t i = Group::lane() * N; i < job.dim; i += Group::kLanes * N) {
    const Pack<T, N> d = load<N>(dy + i), values = load<N>(made + i);
    Pack<T, N> out;
    for (int j = 0; j < N; ++j) {
      inner += widen(d.x[j]) * widen(values.x[j]);
      put(widen(d.x[j]) * weight, out.x[j]);
    }
    store(out, d_row + i);
  }
  inner = Group::sum(inner);
  if (Group::lane() == 0) job.d_weights[slot] = inner;
}

/// A block takes some columns from the first addition of a key to its last.
template <typename T, typename Y>
__global__ void add_sorted_rows_kernel(SortedRows job) {
  const int64_t first = blockIdx.x, key = job.keys[first], column = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (column >= job.dim || (first > 0 && job.keys[first - 1] == key)) return;
  const T* x = static_cast<const T*>(job.x);
  Y& to = static_cast<Y*>(job.y)[key * job.dim + column];
  float sum = widen(to);
  for (int64_t i = first; i < job.count && job.keys[i] == key; ++i) sum += widen(x[job.order[i] * job.dim + column]);
  put(sum, to);
}

}  // namespace

void gather_rows(void* stream, const void* x, int64_t row_bytes, const int32_t* index, int64_t divisor, int64_t rows, void* out) {
  if (rows * row_bytes == 0) return;
  const auto by = [&]<typename Word>(Word) {
    const int64_t words = row_bytes / static_cast<int64_t>(sizeof(Word));
    launch(stream, blocks_for(rows * words), gather_kernel<Word>, static_cast<const Word*>(x), words, index, divisor, rows, static_cast<Word*>(out));
  };
  if (aligned(row_bytes, 1, x, out)) return by(Pack<uint32_t, 4>{});
  row_bytes % 4 == 0 ? by(uint32_t{}) : by(uint8_t{});
}

void add_sums(Where where, const void* rows, const int32_t* row_of, const float* weights, int64_t tokens, int64_t choices, int64_t dim, void* y) {
  if (tokens * dim == 0) return;
  typed(where.bfloat16, [&]<typename T>(T) {
    packed<T>(aligned(dim, sizeof(T), rows, y), [&](auto n) {
      launch(where.stream, blocks_for(tokens * dim / n), add_sums_kernel<T, n>, static_cast<const T*>(rows), row_of, weights, tokens, choices, dim,
             static_cast<T*>(y));
    });
  });
}

void sums_backward(Where where, const SumsBackward& job) {
  if (job.count == 0) return;
  typed(where.bfloat16, [&]<typename T>(T) {
    packed<T>(aligned(job.dim, sizeof(T), job.dy, job.rows, job.d_rows), [&](auto n) {
      grouped(job.dim, [&]<typename Group>(Group) { launch(where.stream, groups_for<Group>(job.count), sums_backward_kernel<T, n, Group>, job); });
    });
  });
}

void add_sorted_rows(Where where, const SortedRows& job) {
  const dim3 blocks(static_cast<unsigned>(job.count), blocks_for(job.dim).x);
  if (job.count * job.dim == 0) return;
  typed(where.bfloat16, [&]<typename T>(T) {
    job.y_float ? launch(where.stream, blocks, add_sorted_rows_kernel<T, float>, job) : launch(where.stream, blocks, add_sorted_rows_kernel<T, T>, job);
  });
}

}  // namespace tessera::kernels::cuda
