#include "kernels/cuda/quantize.h"

#include "kernels/cuda/tile.h"

namespace tessera::kernels::cuda {

namespace {

constexpr int kChannels = 32;          // that a block of tokens_kernel takes
constexpr int kPitch = kChannels + 1;  // floats between tokens in shared memory, so that a column's lie in different banks

/// A warp's tile of up to 128 numbers: value(i) is read twice, put(i, code) called once for each. Returns the scale.
template <typename Value, typename Put>
__device__ float quantize_tile(int count, bool power_of_two, const Value& value, const Put& put) {
  float amax = 0.0f;
  for (int i = Warp::lane(); i < count; i += kWarp) amax = larger_magnitude(amax, value(i));
  const float scale = scale_of(Warp::max(amax), power_of_two), inverse = 1.0f / scale;
  for (int i = Warp::lane(); i < count; i += kWarp) put(i, code_of(value(i), inverse));
  return scale;
}

/// A warp a tile.
template <typename T>
__global__ void rows_kernel(Quantize job, bool by_four) {
  const int64_t tiles = divided_up<int64_t>(job.columns, kTile), tile = Warp::index(), row = tile / tiles, begin = tile % tiles * kTile;
  if (row >= job.rows) return;
  const int count = static_cast<int>(job.columns - begin < kTile ? job.columns - begin : kTile);
  const int64_t place = row * job.columns + begin;
  const float scale = quantize_four(four_of(static_cast<const T*>(job.x) + place, count, by_four), count, by_four, job.power_of_two_scales, job.codes + place);
  if (Warp::lane() == 0) job.scales[tile] = scale;
}

/// Rows [first, first + count) of x, which become a line's codes from `to` on, `room` of them.
struct TokenTile {
  int64_t first = 0, to = 0;
  int count = 0, room = kTile;
};
/// Tile number `tile`. Of experts: each one's tiles begin behind those of the one before it.
__device__ TokenTile token_tile(const Quantize& job, const ExpertRows& experts, int64_t tile) {
  const auto at_most = [](int64_t rows) { return static_cast<int>(rows < kTile ? rows : kTile); };
  if (experts.offsets == nullptr) {
    const int count = at_most(job.rows - tile * kTile);
    return {tile * kTile, tile * kTile, count, count};
  }
  int64_t begin = 0;
  for (int32_t e = 0; e < experts.experts; ++e) {
    const int64_t rows = experts.offsets[e + 1] - experts.offsets[e], tiles = rows > 0 ? divided_up<int64_t>(rows, kTile) : 1;
    if (tile < begin + tiles) return {experts.offsets[e] + (tile - begin) * kTile, tile * kTile, at_most(rows - (tile - begin) * kTile), kTile};
    begin += tiles;
  }
  return {0, 0, 0, 0};
}

/// A block takes 128 tokens of 32 channels through shared memory.
template <typename T>
__global__ void tokens_kernel(Quantize job, ExpertRows experts) {
  __shared__ float shared[kTile * kPitch];
  __shared__ TokenTile where;
  const int64_t first_channel = static_cast<int64_t>(blockIdx.y) * kChannels;
  if (Block::lane() == 0) where = token_tile(job, experts, blockIdx.x);
  __syncthreads();
  const TokenTile tile = where;
  if (tile.room == 0) return;
  for (int i = Block::lane(); i < kTile * kChannels; i += kThreads) {
    const int token = i / kChannels, channel = i % kChannels;
    const bool inside = token < tile.count && first_channel + channel < job.columns;
    shared[token * kPitch + channel] = inside ? widen(static_cast<const T*>(job.x)[(tile.first + token) * job.columns + first_channel + channel]) : 0.0f;
  }
  __syncthreads();
  const int64_t line = experts.offsets == nullptr ? job.rows : experts.padded, tiles = divided_up<int64_t>(line, kTile);
  for (int channel = Block::lane() / kWarp; channel < kChannels && first_channel + channel < job.columns; channel += kWarps) {
    uint8_t* codes = job.codes + (first_channel + channel) * line + tile.to;
    const float scale = quantize_tile(tile.room, job.power_of_two_scales, [&](int i) { return shared[i * kPitch + channel]; },
                                      [codes](int i, uint8_t code) { codes[i] = code; });
    if (Warp::lane() == 0) job.scales[experts.offsets == nullptr ? (first_channel + channel) * tiles + blockIdx.x : blockIdx.x * job.columns + first_channel + channel] = scale;
  }
}

/// A block a tile of 128 x 128, read twice; the codes of a transposed one go through shared memory.
template <typename T>
__global__ void blocks_kernel(Quantize job, int64_t matrices, bool transposed) {
  constexpr int kCodePitch = kTile + 4;
  __shared__ uint8_t shared[kTile * kCodePitch];
  const int64_t rows = job.rows / matrices, down = divided_up<int64_t>(rows, kTile), across = divided_up<int64_t>(job.columns, kTile);
  const int64_t matrix = blockIdx.x / (down * across), i = blockIdx.x / across % down, j = blockIdx.x % across;
  const int height = static_cast<int>(rows - i * kTile < kTile ? rows - i * kTile : kTile);
  const int width = static_cast<int>(job.columns - j * kTile < kTile ? job.columns - j * kTile : kTile);
  const T* x = static_cast<const T*>(job.x) + (matrix * rows + i * kTile) * job.columns + j * kTile;
  float amax = 0.0f;
  for (int k = Block::lane(); k < kTile * kTile; k += kThreads) {
    const int r = k / kTile, c = k % kTile;
    if (r < height && c < width) amax = larger_magnitude(amax, widen(x[r * job.columns + c]));
  }
  const float scale = scale_of(Block::max(amax), job.power_of_two_scales), inverse = 1.0f / scale;
  uint8_t* codes = job.codes + matrix * rows * job.columns + (transposed ? j * kTile * rows + i * kTile : i * kTile * job.columns + j * kTile);
  for (int k = Block::lane(); k < kTile * kTile; k += kThreads) {
    const int r = k / kTile, c = k % kTile;
    if (r >= height || c >= width) continue;
    const uint8_t code = code_of(widen(x[r * job.columns + c]), inverse);
    (transposed ? shared[c * kCodePitch + r] : codes[r * job.columns + c]) = code;
  }
  if (transposed) {
    __syncthreads();
    for (int k = Block::lane(); k < kTile * kTile; k += kThreads) {
      const int c = k / kTile, r = k % kTile;
      if (r < height && c < width) codes[c * rows + r] = shared[c * kCodePitch + r];
    }
  }
  if (Block::lane() == 0) job.scales[matrix * down * across + (transposed ? j * down + i : i * across + j)] = scale;
}

template <typename T, int N>
__global__ void dequantize_kernel(Dequantize job, int64_t across) {
  const int64_t i = thread_index() * N, row = i / job.columns, column = i % job.columns;
  if (row >= job.rows) return;
  const float scale = job.scales[row / job.tile_rows * across + column / job.tile_columns];
  const Pack<uint8_t, N> codes = load<N>(job.codes + i);
  Pack<T, N> x;
  for (int j = 0; j < N; ++j) put(value_of(codes.x[j]) * scale, x.x[j]);
  store(x, static_cast<T*>(job.x) + i);
}

}  // namespace

void quantize_rows(const Quantize& job) {
  const int64_t tiles = job.rows * divided_up<int64_t>(job.columns, kTile);
  if (tiles == 0) return;
  const bool by_four = aligned(4 * job.columns, 1, job.x, job.codes);
  typed(job.bfloat16, [&]<typename T>(T) { launch(job.stream, groups_for<Warp>(tiles), rows_kernel<T>, job, by_four); });
}

void quantize_tokens(const Quantize& job, const ExpertRows& experts) {
  const int64_t tiles = divided_up<int64_t>(experts.offsets == nullptr ? job.rows : experts.padded, kTile);
  if (tiles * job.columns == 0) return;
  const dim3 blocks(static_cast<unsigned>(tiles), static_cast<unsigned>(divided_up<int64_t>(job.columns, kChannels)));
  typed(job.bfloat16, [&]<typename T>(T) { launch(job.stream, blocks, tokens_kernel<T>, job, experts); });
}

void quantize_blocks(const Quantize& job, int64_t matrices, bool transposed) {
  const int64_t tiles = matrices * divided_up<int64_t>(job.rows / matrices, kTile) * divided_up<int64_t>(job.columns, kTile);
  if (tiles == 0) return;
  typed(job.bfloat16, [&]<typename T>(T) { launch(job.stream, dim3(static_cast<unsigned>(tiles)), blocks_kernel<T>, job, matrices, transposed); });
}

void dequantize(const Dequantize& job) {
  const int64_t count = job.rows * job.columns, across = divided_up(job.columns, job.tile_columns);
  if (count == 0) return;
  typed(job.bfloat16, [&]<typename T>(T) {
    // Neighbours in one access lie in one row, and in one tile.
    const bool by_four = job.columns % 4 == 0 && job.tile_columns % 4 == 0 && aligned(0, 1, job.codes, job.x);
    const auto run = [&](auto n) { launch(job.stream, blocks_for(count / n), dequantize_kernel<T, n>, job, across); };
    by_four ? run(std::integral_constant<int, 4>{}) : run(std::integral_constant<int, 1>{});
  });
}

}  // namespace tessera::kernels::cuda
