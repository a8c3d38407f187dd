#include "kernels/cuda/losses.h"

#include "kernels/cuda/softmax.h"

namespace tessera::kernels::cuda {

namespace {

/// x becomes factor (exp(x inverse_temperature - lse) - [this is the id]).
template <typename T, int N>
__device__ void write_gradient(T* logits, int64_t count, int64_t id, float inverse_temperature, float lse, float factor) {
  for (int64_t i = Block::lane() * N; i < count; i += Block::kLanes * N) {
    Pack<T, N> pack = load<N>(logits + i);
    for (int j = 0; j < N; ++j) put(factor * (expf(widen(pack.x[j]) * inverse_temperature - lse) - (i + j == id ? 1.0f : 0.0f)), pack.x[j]);
    store(pack, logits + i);
  }
}

template <typename T, int N>
__global__ void cross_entropy_kernel(Logits all, const float* weights, float* log_probs) {
  const int64_t row = blockIdx.x, id = all.ids[row];
  T* logits = static_cast<T*>(all.data) + row * all.vocabulary;
  const float chosen = widen(logits[id]);  // before anyone overwrites it: spread_of waits for all threads
  const Spread spread = spread_of<T, N>(logits, all.vocabulary, 1.0f);
  const float lse = spread.largest + logf(spread.sum);
  if (Block::lane() == 0) log_probs[row] = chosen - lse;
  if (weights != nullptr) write_gradient<T, N>(logits, all.vocabulary, id, 1.0f, lse, weights[row]);
}

template <typename T, int N>
__global__ void softmax_rows_kernel(Logits all, float inverse_temperature, float* softmax) {
  const int64_t row = blockIdx.x;
  const T* logits = static_cast<const T*>(all.data) + row * all.vocabulary;
  const Spread spread = spread_of<T, N>(logits, all.vocabulary, inverse_temperature);
  if (Block::lane() != 0) return;
  const float lse = spread.largest + logf(spread.sum);
  float* to = softmax + row * 5;
  to[0] = spread.largest / inverse_temperature;
  to[1] = lse;
  to[2] = 0.0f;
  to[3] = widen(logits[all.ids[row]]) * inverse_temperature - lse;
  to[4] = lse - spread.weighted / spread.sum;
}

template <typename T, int N>
__global__ void softmax_gradient_kernel(Logits all, const float* weights, float inverse_temperature, const float* softmax) {
  const int64_t row = blockIdx.x;
  write_gradient<T, N>(static_cast<T*>(all.data) + row * all.vocabulary, all.vocabulary, all.ids[row], inverse_temperature, softmax[row * 5 + 1],
                       weights[row] * inverse_temperature);
}

/// body(T{}, how many an access takes).
template <typename Body>
void for_logits(Where where, const Logits& logits, const Body& body) {
  if (logits.rows == 0) return;
  typed(where.bfloat16, [&]<typename T>(T t) { packed<T>(aligned(logits.vocabulary, sizeof(T), logits.data), [&](auto n) { body(t, n); }); });
}
dim3 block_a_row(const Logits& logits) { return dim3(static_cast<unsigned>(logits.rows)); }

}  // namespace

void cross_entropy(Where where, const Logits& logits, const float* weights, float* log_probs) {
  for_logits(where, logits, [&]<typename T>(T, auto n) { launch(where.stream, block_a_row(logits), cross_entropy_kernel<T, n>, logits, weights, log_probs); });
}

void softmax_rows(Where where, const Logits& logits, float inverse_temperature, float* softmax) {
  for_logits(where, logits, [&]<typename T>(T, auto n) { launch(where.stream, block_a_row(logits), softmax_rows_kernel<T, n>, logits, inverse_temperature, softmax); });
}

void softmax_gradient(Where where, const Logits& logits, const float* weights, float inverse_temperature, const float* softmax) {
  for_logits(where, logits, [&]<typename T>(T, auto n) {
    launch(where.stream, block_a_row(logits), softmax_gradient_kernel<T, n>, logits, weights, inverse_temperature, softmax);
  });
}

}  // namespace tessera::kernels::cuda
