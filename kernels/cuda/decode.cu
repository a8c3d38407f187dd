#include "kernels/cuda/decode.h"

#include "kernels/cuda/softmax.h"

namespace tessera::kernels::cuda {

namespace {

template <typename T>
__global__ void store_rows_kernel(StoredRows job) {
  const int64_t i = thread_index(), row = i / job.dim, column = i % job.dim;
  if (row < job.count) reinterpret_cast<T*>(job.addresses[row])[job.offset + column] = static_cast<const T*>(job.rows)[row * job.stride + column];
}

/// A warp a query head, or several that share out its keys. `heads_here` heads of one key/value head in a block: 1, 2, 4 or 8.
template <typename T>
__global__ void attend_cached_kernel(CachedAttention job, int heads_here) {
  constexpr int kValues = static_cast<int>(kMostValueDim) / kWarp;
  __shared__ float queries[kWarps][kMostKeyDim], sums[kWarps][kMostValueDim], totals[kWarps], maxima[kWarps];
  const int64_t group = job.heads / job.key_value_heads, parts = divided_up<int64_t>(group, heads_here);
  const int64_t part = blockIdx.x % parts, kv_head = blockIdx.x / parts % job.key_value_heads, query = blockIdx.x / parts / job.key_value_heads;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, slices = kWarps / heads_here, slice = warp / heads_here, lane = Warp::lane();
  const int64_t in_group = part * heads_here + warp % heads_here, head = query * job.heads + kv_head * group + in_group;
  const bool there = in_group < group;
  float sum[kValues] = {}, largest = -INFINITY, total = 0.0f;
  if (there) {
    for (int64_t d = lane; d < job.head_dim; d += kWarp) queries[warp][d] = widen(static_cast<const T*>(job.q)[head * job.head_dim + d]);
    __syncwarp();
    int64_t key = 0;
    for (int64_t r = job.first_run[query]; r < job.first_run[query + 1]; ++r) {
      const T* rows = reinterpret_cast<const T*>(job.addresses[r]);
      for (int64_t j = 0; j < job.counts[r]; ++j, ++key) {
        if (key % slices != slice) continue;
        const T *k = rows + j * job.stride + kv_head * job.head_dim, *v = rows + j * job.stride + job.values_begin + kv_head * job.value_dim;
        float score = 0.0f;
        for (int64_t d = lane; d < job.head_dim; d += kWarp) score += queries[warp][d] * widen(k[d]);
        score = Warp::sum(score) * job.scale;
        const float now = score > largest ? score : largest, keep = expf(largest - now), weight = expf(score - now);
        largest = now;
        total = total * keep + weight;
        for (int i = 0; i < kValues; ++i)
          if (const int64_t d = lane + i * kWarp; d < job.value_dim) sum[i] = sum[i] * keep + weight * widen(v[d]);
      }
    }
  }
  for (int i = 0; i < kValues; ++i)
    if (const int64_t d = lane + i * kWarp; d < job.value_dim) sums[warp][d] = sum[i];
  if (lane == 0) {
    totals[warp] = total;
    maxima[warp] = largest;
  }
  __syncthreads();
  if (!there || slice != 0) return;
  float all = -INFINITY, weights = 0.0f;
  for (int w = warp; w < kWarps; w += heads_here) all = maxima[w] > all ? maxima[w] : all;
  for (int w = warp; w < kWarps; w += heads_here) weights += totals[w] * expf(maxima[w] - all);
  for (int64_t d = lane; d < job.value_dim; d += kWarp) {
    float mixed = 0.0f;
    for (int w = warp; w < kWarps; w += heads_here) mixed += sums[w][d] * expf(maxima[w] - all);
    put(mixed / weights, static_cast<T*>(job.out)[head * job.value_dim + d]);
  }
}

struct Smaller {
  __device__ int32_t operator()(int32_t a, int32_t b) const { return a < b ? a : b; }
};

/// A block a row. For a draw each thread adds up a run of neighbours; the thread whose run the draw falls into walks it.
template <typename T>
__global__ void draw_kernel(Logits all, const double* uniforms, float inverse_temperature, bool greedy, double* drawn) {
  __shared__ double ends[kThreads];
  __shared__ int32_t token;
  const int64_t row = blockIdx.x;
  const auto count = static_cast<int32_t>(all.vocabulary), run = divided_up(count, kThreads), begin = Block::lane() * run;
  const int32_t end = begin + run < count ? begin + run : count;
  const T* logits = static_cast<const T*>(all.data) + row * all.vocabulary;
  const Spread spread = spread_of<T, 1>(logits, count, inverse_temperature);
  const auto weight = [&](int32_t i) { return expf(widen(logits[i]) * inverse_temperature - spread.largest); };
  if (Block::lane() == 0) token = count - 1;
  if (greedy) {
    int32_t first = count - 1;
    for (int32_t i = Block::lane(); i < count; i += kThreads)
      if (widen(logits[i]) * inverse_temperature == spread.largest && i < first) first = i;
    first = Block::all(first, Smaller{});
    if (Block::lane() == 0) token = first;
  } else {
    double mine = 0;
    for (int32_t i = begin; i < end; ++i) mine += static_cast<double>(weight(i));
    ends[Block::lane()] = mine;
    __syncthreads();
    if (Block::lane() == 0)
      for (int i = 1; i < kThreads; ++i) ends[i] += ends[i - 1];
    __syncthreads();
    const double target = uniforms[row] * ends[kThreads - 1], before = Block::lane() == 0 ? 0.0 : ends[Block::lane() - 1];
    if (before <= target && target < ends[Block::lane()]) {
      double passed = before;
      int32_t last = begin;  // with some weight, should rounding leave a rest
      for (int32_t i = begin; i < end; ++i) {
        const float w = weight(i);
        if (w <= 0.0f) continue;
        last = i;
        passed += static_cast<double>(w);
        if (target < passed) break;
      }
      token = last;
    }
  }
  __syncthreads();
  if (Block::lane() != 0) return;
  drawn[2 * row] = token;
  drawn[2 * row + 1] = static_cast<double>(widen(logits[token])) * inverse_temperature - (static_cast<double>(spread.largest) + log(static_cast<double>(spread.sum)));
}

}  // namespace

void store_rows(Where where, const StoredRows& job) {
  if (job.count * job.dim == 0) return;
  typed(where.bfloat16, [&]<typename T>(T) { launch(where.stream, blocks_for(job.count * job.dim), store_rows_kernel<T>, job); });
}

void attend_cached(Where where, const CachedAttention& job) {
  const int64_t group = job.heads / job.key_value_heads;
  int heads_here = 1;
  while (heads_here < kWarps && heads_here < group) heads_here *= 2;
  const int64_t blocks = job.queries * job.key_value_heads * divided_up<int64_t>(group, heads_here);
  if (blocks == 0) return;
  typed(where.bfloat16, [&]<typename T>(T) { launch(where.stream, dim3(static_cast<unsigned>(blocks)), attend_cached_kernel<T>, job, heads_here); });
}

void draw_tokens(Where where, const Logits& logits, const double* uniforms, float inverse_temperature, bool greedy, double* drawn) {
  if (logits.rows == 0) return;
  typed(where.bfloat16, [&]<typename T>(T) {
    launch(where.stream, dim3(static_cast<unsigned>(logits.rows)), draw_kernel<T>, logits, uniforms, inverse_temperature, greedy, drawn);
  });
}

}  // namespace tessera::kernels::cuda
