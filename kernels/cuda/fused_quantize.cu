#include "kernels/cuda/fused_quantize.h"

#include "kernels/cuda/formulas.h"
#include "kernels/cuda/tile.h"

namespace tessera::kernels::cuda {

namespace {

/// Numbers of a row's tile that begins at `begin`.
__device__ int tile_count(int64_t columns, int64_t begin) { return static_cast<int>(columns - begin < kTile ? columns - begin : kTile); }

/// A group a row, a warp a tile. The row is read a second time, from a cache.
template <typename T, int N, typename Group>
__global__ void norm_kernel(QuantizeNorm job, bool by_four) {
  const int64_t row = Group::index(), dim = job.to.columns, tiles = divided_up<int64_t>(dim, kTile);
  if (row >= job.to.rows) return;
  const T *x = static_cast<const T*>(job.to.x) + row * dim, *w = static_cast<const T*>(job.w);
  const float rstd = inverse_rms<N, Group>(x, dim, job.eps);
  if (Group::lane() == 0) job.rstd[row] = rstd;
  for (int64_t tile = Group::lane() / kWarp; tile < tiles; tile += Group::kLanes / kWarp) {
    const int64_t begin = tile * kTile;
    const int count = tile_count(dim, begin);
    Four values = four_of(x + begin, count, by_four);
    const Four weights = four_of(w + begin, count, by_four);
    for (int j = 0; j < 4; ++j) values.x[j] = rounded<T>(values.x[j] * rstd * weights.x[j]);
    const float scale = quantize_four(values, count, by_four, job.to.power_of_two_scales, job.to.codes + row * dim + begin);
    if (Warp::lane() == 0) job.to.scales[row * tiles + tile] = scale;
  }
}

/// A warp a tile of gates and the one of their ups.
template <typename T>
__global__ void swiglu_kernel(Quantize to, GateUpCodes gate_up, bool by_four) {
  const int64_t width = to.columns, tiles = divided_up<int64_t>(width, kTile), row = Warp::index() / tiles, tile = Warp::index() % tiles, begin = tile * kTile;
  if (row >= to.rows) return;
  const int count = tile_count(width, begin);
  const T* x = static_cast<const T*>(to.x) + 2 * row * width + begin;
  const Four gates = four_of(x, count, by_four), ups = four_of(x + width, count, by_four);
  Four product;
  for (int j = 0; j < 4; ++j) product.x[j] = rounded<T>(swiglu_of(gates.x[j], ups.x[j]));
  const auto quantize = [&](const Four& four, int64_t line, uint8_t* codes, float* scales) {
    const float scale = quantize_four(four, count, by_four, to.power_of_two_scales, codes + line * width + begin);
    if (Warp::lane() == 0) scales[line * tiles + tile] = scale;
  };
  quantize(product, row, to.codes, to.scales);
  quantize(gates, 2 * row, gate_up.codes, gate_up.scales);
  quantize(ups, 2 * row + 1, gate_up.codes, gate_up.scales);
}

/// N neighbours of a line of codes, in one tile, as activations of type T.
template <typename T, int N>
__device__ Pack<float, N> values_of(const GateUp& job, int64_t line, int64_t column) {
  const Pack<uint8_t, N> codes = load<N>(job.from.codes + line * job.width + column);
  const float scale = job.from.scales[line * divided_up<int64_t>(job.width, kTile) + column / kTile];
  Pack<float, N> x;
  for (int j = 0; j < N; ++j) x.x[j] = rounded<T>(value_of(codes.x[j]) * scale);
  return x;
}

template <typename T, int N>
__global__ void swiglu_of_codes_kernel(GateUp job, T* out) {
  const int64_t i = thread_index() * N, row = i / job.width, column = i % job.width;
  if (row >= job.rows) return;
  const Pack<float, N> gates = values_of<T, N>(job, 2 * row, column), ups = values_of<T, N>(job, 2 * row + 1, column);
  Pack<T, N> y;
  for (int j = 0; j < N; ++j) put(swiglu_of(gates.x[j], ups.x[j]), y.x[j]);
  store(y, out + i);
}

template <typename T, int N>
__global__ void swiglu_backward_of_codes_kernel(GateUp job, const T* d_out, T* d_gate_up) {
  const int64_t i = thread_index() * N, row = i / job.width, column = i % job.width;
  if (row >= job.rows) return;
  const Pack<float, N> gates = values_of<T, N>(job, 2 * row, column), ups = values_of<T, N>(job, 2 * row + 1, column);
  const Pack<T, N> d = load<N>(d_out + i);
  Pack<T, N> d_gates, d_ups;
  for (int j = 0; j < N; ++j) {
    const GateGradient gradient = swiglu_gradient(widen(d.x[j]), gates.x[j], ups.x[j]);
    put(gradient.gate, d_gates.x[j]);
    put(gradient.up, d_ups.x[j]);
  }
  T* to = d_gate_up + i + row * job.width;
  store(d_gates, to);
  store(d_ups, to + job.width);
}

}  // namespace

void quantize_norm(const QuantizeNorm& job) {
  const Quantize& to = job.to;
  if (to.rows == 0) return;
  const bool by_four = aligned(4 * to.columns, 1, to.x, to.codes, job.w);
  typed(to.bfloat16, [&]<typename T>(T) {
    packed<T>(aligned(to.columns, sizeof(T), to.x, job.w), [&](auto n) {
      grouped(to.columns, [&]<typename Group>(Group) { launch(to.stream, groups_for<Group>(to.rows), norm_kernel<T, n, Group>, job, by_four); });
    });
  });
}

void quantize_swiglu(const Quantize& to, const GateUpCodes& gate_up) {
  const int64_t tiles = to.rows * divided_up<int64_t>(to.columns, kTile);
  if (tiles == 0) return;
  const bool by_four = aligned(4 * to.columns, 1, to.x, to.codes, gate_up.codes);
  typed(to.bfloat16, [&]<typename T>(T) { launch(to.stream, groups_for<Warp>(tiles), swiglu_kernel<T>, to, gate_up, by_four); });
}

void swiglu_of_codes(const GateUp& job, void* out) {
  if (job.rows * job.width == 0) return;
  typed(job.bfloat16, [&]<typename T>(T) {
    packed<T>(aligned(job.width, sizeof(T), job.from.codes, out), [&](auto n) {
      launch(job.stream, blocks_for(job.rows * job.width / n), swiglu_of_codes_kernel<T, n>, job, static_cast<T*>(out));
    });
  });
}

void swiglu_backward_of_codes(const GateUp& job, const void* d_out, void* d_gate_up) {
  if (job.rows * job.width == 0) return;
  typed(job.bfloat16, [&]<typename T>(T) {
    packed<T>(aligned(job.width, sizeof(T), job.from.codes, d_out, d_gate_up), [&](auto n) {
      launch(job.stream, blocks_for(job.rows * job.width / n), swiglu_backward_of_codes_kernel<T, n>, job, static_cast<const T*>(d_out),
             static_cast<T*>(d_gate_up));
    });
  });
}

}  // namespace tessera::kernels::cuda
