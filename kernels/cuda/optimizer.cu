#include "kernels/cuda/optimizer.h"

#include "kernels/cuda/launch.h"

namespace tessera::kernels::cuda {

namespace {

constexpr int64_t kAtOnce = 32;              // tensors of a launch: what its arguments have room for
constexpr int64_t kChunk = int64_t{1} << 14;  // elements of a block

/// Tensors and the blocks that work on them, in the arguments of a launch.
template <typename Item>
struct Batch {
  Item items[kAtOnce];
  int64_t first_block[kAtOnce + 1];
  int32_t count;
};
/// Which of its items a block belongs to, and where it begins in it.
template <typename Item>
__device__ const Item& item_of(const Batch<Item>& batch, int64_t& begin) {
  int32_t i = 0;
  while (static_cast<int64_t>(blockIdx.x) >= batch.first_block[i + 1]) ++i;
  begin = (static_cast<int64_t>(blockIdx.x) - batch.first_block[i]) * kChunk;
  return batch.items[i];
}
/// launch(batch, its blocks) of so many items at a time.
template <typename Item, typename Launch>
void in_batches(const std::vector<Item>& items, const Launch& launch_batch) {
  for (size_t next = 0; next < items.size();) {
    Batch<Item> batch{};
    for (; next < items.size() && batch.count < kAtOnce; ++next) {
      if (items[next].count == 0) continue;
      batch.items[batch.count] = items[next];
      batch.first_block[batch.count + 1] = batch.first_block[batch.count] + divided_up(items[next].count, kChunk);
      ++batch.count;
    }
    if (batch.count > 0) launch_batch(batch, batch.first_block[batch.count]);
  }
}

template <typename T>
__device__ void update_one(const UpdateTerms& terms, const Update& u, int64_t i, float& weight, float gradient, T& exp_avg, T& exp_avg_sq) {
  const AdamWFactors& f = terms.factors;
  const float g = gradient * f.gradient_scale;
  const float m = f.beta1 * widen(exp_avg) + (1.0f - f.beta1) * g, v = f.beta2 * widen(exp_avg_sq) + (1.0f - f.beta2) * (g * g);
  weight = weight * u.keep - f.step_size * m / (sqrtf(v) * f.inverse_root + f.eps);
  if constexpr (std::is_same_v<T, Narrow>) {
    if (terms.stochastic) {
      const uint32_t bits = rounding_noise(u.noise.key, static_cast<uint64_t>(u.noise.first + i));
      exp_avg.bits = to_bfloat16_stochastic(m, bits);
      exp_avg_sq.bits = to_bfloat16_stochastic(v, bits >> 16);
      return;
    }
  }
  put(m, exp_avg);
  put(v, exp_avg_sq);
}

template <typename T, int N>
__device__ void update_chunk(const UpdateTerms& terms, const Update& u, int64_t begin) {
  const int64_t end = begin + kChunk < u.count ? begin + kChunk : u.count;
  T *exp_avg = static_cast<T*>(u.exp_avg), *exp_avg_sq = static_cast<T*>(u.exp_avg_sq);
  for (int64_t i = begin + Block::lane() * N; i < end; i += kThreads * N) {
    if (i + N <= end) {
      auto w = load<N>(u.weight + i);
      const auto g = load<N>(u.gradient + i);
      auto m = load<N>(exp_avg + i), v = load<N>(exp_avg_sq + i);
      for (int j = 0; j < N; ++j) update_one(terms, u, i + j, w.x[j], g.x[j], m.x[j], v.x[j]);
      store(w, u.weight + i);
      store(m, exp_avg + i);
      store(v, exp_avg_sq + i);
    } else {
      for (int64_t j = i; j < end; ++j) update_one(terms, u, j, u.weight[j], u.gradient[j], exp_avg[j], exp_avg_sq[j]);
    }
  }
}

template <typename T>
__global__ void adamw_kernel(UpdateTerms terms, Batch<Update> batch) {
  int64_t begin = 0;
  const Update& u = item_of(batch, begin);
  const auto address = [](const void* x) { return reinterpret_cast<uintptr_t>(x); };
  const bool together = (address(u.weight) | address(u.gradient) | address(u.exp_avg) | address(u.exp_avg_sq)) % 16 == 0;
  together ? update_chunk<T, 4>(terms, u, begin) : update_chunk<T, 1>(terms, u, begin);
}

__global__ void squares_kernel(Batch<Numbers> batch, double* partial) {
  int64_t begin = 0;
  const Numbers& numbers = item_of(batch, begin);
  const int64_t end = begin + kChunk < numbers.count ? begin + kChunk : numbers.count;
  double sum = 0;
  for (int64_t i = begin + Block::lane(); i < end; i += kThreads) sum += static_cast<double>(numbers.x[i]) * static_cast<double>(numbers.x[i]);
  sum = Block::sum(sum);
  if (Block::lane() == 0) partial[blockIdx.x] = sum;
}

__global__ void total_kernel(const double* partial, int64_t count, double* total) {
  double sum = 0;
  for (int64_t i = Block::lane(); i < count; i += kThreads) sum += partial[i];
  sum = Block::sum(sum);
  if (Block::lane() == 0) *total = sum;
}

}  // namespace

void adamw(void* stream, const UpdateTerms& terms, const std::vector<Update>& updates) {
  typed(terms.narrow, [&]<typename T>(T) {
    in_batches(updates, [&](const Batch<Update>& batch, int64_t blocks) { launch(stream, dim3(static_cast<unsigned>(blocks)), adamw_kernel<T>, terms, batch); });
  });
}

int64_t square_parts(const std::vector<Numbers>& all) {
  int64_t parts = 0;
  for (const Numbers& numbers : all) parts += divided_up(numbers.count, kChunk);
  return parts;
}

void sum_of_squares(void* stream, const std::vector<Numbers>& all, double* partial, double* total) {
  double* next = partial;
  in_batches(all, [&](const Batch<Numbers>& batch, int64_t blocks) {
    launch(stream, dim3(static_cast<unsigned>(blocks)), squares_kernel, batch, next);
    next += blocks;
  });
  launch(stream, dim3(1), total_kernel, partial, next - partial, total);
}

}  // namespace tessera::kernels::cuda
