#include "kernels/fp8/quantize.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "core/error.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/threads.h"

namespace tessera::kernels::fp8 {

namespace {

constexpr int64_t kRowsAtOnce = 8;  // made and rounded in cache

at::ScalarType dtype_of(Format format) {
  switch (format) {
    case Format::kE4m3: return at::kFloat8_e4m3fn;
    case Format::kE5m2: return at::kFloat8_e5m2;
    case Format::kBfloat16: return at::kBFloat16;
  }
  return at::kFloat;
}

int64_t tiles(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

/// The tile with 0 filled in.
Tile resolved(Tile tile, int64_t rows, int64_t columns) {
  return {tile.rows == 0 ? std::max<int64_t>(rows, 1) : tile.rows, tile.columns == 0 ? std::max<int64_t>(columns, 1) : tile.columns};
}

Quantized room_for(const Scheme& scheme, int64_t rows, int64_t columns) {
  if (!scheme.scaled()) return {at::empty({rows, columns}, at::kBFloat16), {}};
  const Tile tile = resolved(scheme.tile, rows, columns);
  return {at::empty({rows, columns}, dtype_of(scheme.format)), at::empty({tiles(rows, tile.rows), tiles(columns, tile.columns)}, at::kFloat)};
}

/// Of the row `row`, in a tile row `tile_row`.
Sink sink_at(const Quantized* codes, float* values, int64_t columns, int64_t row, int64_t tile_row) {
  Sink sink;
  if (values != nullptr) sink.values = values + row * columns;
  sink.value_stride = sink.code_stride = columns;
  if (codes == nullptr) return sink;
  sink.codes = static_cast<uint8_t*>(codes->codes.data_ptr()) + row * columns;
  sink.scale_stride = codes->scales.size(1);
  sink.scales = codes->scales.data_ptr<float>() + tile_row * sink.scale_stride;
  return sink;
}

/// To bfloat16; `values` may be null.
void round_rows(const RowSource& x, const Quantized* codes, float* values) {
  auto* out = codes == nullptr ? nullptr : static_cast<uint16_t*>(codes->codes.data_ptr());
  for_each_chunk(x.rows, kRowsAtOnce, [&](int64_t, int64_t begin, int64_t end) {
    std::vector<float> room(values == nullptr ? static_cast<size_t>(kRowsAtOnce * x.columns) : 0);
    for (int64_t r = begin; r < end; r += kRowsAtOnce) {
      const int64_t last = std::min(r + kRowsAtOnce, end);
      const float* rows = x.make(r, last, values == nullptr ? room.data() : values + r * x.columns);
      kernel_table().round_bfloat16(rows, (last - r) * x.columns, out == nullptr ? nullptr : out + r * x.columns,
                                    values == nullptr ? nullptr : values + r * x.columns);
    }
  });
}

at::Tensor rounded_rows(const RowSource& x, const Quantized* codes) {
  at::Tensor values = at::empty({x.rows, x.columns}, at::kFloat);
  round_rows(x, codes, values.data_ptr<float>());
  return values;
}

/// One scale for all; a first pass finds it, and leaves in the result what rows it had to make.
at::Tensor rounded_whole(const RowSource& x, const Scheme& scheme, Quantized* codes) {
  at::Tensor values = at::empty({x.rows, x.columns}, at::kFloat);
  float* out = values.data_ptr<float>();
  const auto threads = static_cast<size_t>(at::get_num_threads());
  std::vector<float> largest(threads, 0.0f);
  std::vector<const float*> made(threads);
  for_each_chunk(x.rows, kRowsAtOnce, [&](int64_t chunk, int64_t begin, int64_t end) {
    const auto c = static_cast<size_t>(chunk);
    made[c] = x.make(begin, end, out + begin * x.columns);
    largest[c] = kernel_table().fp8_largest(made[c], x.columns, end - begin, x.columns);
  });
  const float scale = kernel_table().fp8_scale(scheme, *std::max_element(largest.begin(), largest.end()));
  if (codes != nullptr) codes->scales.fill_(scale);
  for_each_chunk(x.rows, kRowsAtOnce, [&](int64_t chunk, int64_t begin, int64_t end) {
    Sink sink = sink_at(codes, out, x.columns, begin, 0);
    sink.scales = nullptr;
    kernel_table().fp8_quantize_with(scheme.format, scale, made[static_cast<size_t>(chunk)], x.columns, end - begin, x.columns, sink);
  });
  return values;
}

/// [begin, end) of tiles of at most `length` rows, anew at each start.
std::vector<std::pair<int64_t, int64_t>> row_tiles(int64_t rows, int64_t length, const std::vector<int64_t>& starts) {
  std::vector<std::pair<int64_t, int64_t>> found;
  for (size_t i = 0; i < std::max<size_t>(starts.size(), 1); ++i) {
    const int64_t end = i + 1 < starts.size() ? starts[i + 1] : rows;
    for (int64_t begin = starts.empty() ? 0 : starts[i]; begin < end; begin += length) found.emplace_back(begin, std::min(begin + length, end));
  }
  return found;
}

void check_matrix(const at::Tensor& x) {
  TESSERA_CHECK(x.dim() == 2 && x.scalar_type() == at::kFloat && x.is_contiguous(), "fp8 quantisation of ", x.sizes(), ", ", x.scalar_type());
}

}  // namespace

RowSource rows_of(const at::Tensor& x) {
  check_matrix(x);
  const int64_t columns = x.size(1);
  return {x.size(0), columns, [data = x.const_data_ptr<float>(), columns](int64_t begin, int64_t, float*) { return data + begin * columns; }};
}

RowSource rows_of(const Quantized& x, const Scheme& scheme) {
  const int64_t rows = x.codes.size(0), columns = x.codes.size(1);
  if (!scheme.scaled())
    return {rows, columns, [columns, data = static_cast<const uint16_t*>(x.codes.const_data_ptr())](int64_t begin, int64_t end, float* room) {
              kernel_table().expand_bfloat16(data + begin * columns, (end - begin) * columns, room);
              return static_cast<const float*>(room);
            }};
  TESSERA_CHECK(scheme.tile.rows == 1 || scheme.tile.whole(), "a source of rows");
  const auto* codes = static_cast<const uint8_t*>(x.codes.const_data_ptr());
  const float* scales = x.scales.const_data_ptr<float>();
  const Tile tile = resolved({1, scheme.tile.columns}, rows, columns);
  const int64_t stride = scheme.tile.whole() ? 0 : x.scales.size(1);
  return {rows, columns, [=, format = scheme.format](int64_t begin, int64_t end, float* room) {
            kernel_table().fp8_dequantize(format, tile, codes + begin * columns, columns, scales + begin * stride, stride, end - begin, columns, room, columns);
            return static_cast<const float*>(room);
          }};
}

Quantized quantize(const at::Tensor& x, const Scheme& scheme) {
  check_matrix(x);
  const int64_t rows = x.size(0), columns = x.size(1);
  Quantized result = room_for(scheme, rows, columns);
  if (!scheme.scaled()) {
    round_rows(rows_of(x), &result, nullptr);
    return result;
  }
  if (scheme.tile.whole()) {
    (void)rounded_whole(rows_of(x), scheme, &result);
    return result;
  }
  const float* data = x.const_data_ptr<float>();
  const Scheme here{scheme.format, resolved(scheme.tile, rows, columns), scheme.power_of_two_scales};
  const int64_t step = here.tile.rows;
  for_each_chunk(tiles(rows, step), std::max<int64_t>(1, kRowsAtOnce / step), [&](int64_t, int64_t first, int64_t last) {
    const int64_t begin = first * step, end = std::min(last * step, rows);
    kernel_table().fp8_quantize(here, data + begin * columns, columns, end - begin, columns, sink_at(&result, nullptr, columns, begin, first));
  });
  return result;
}

at::Tensor quantize_with(const at::Tensor& x, Format format, float scale) {
  check_matrix(x);
  at::Tensor codes = at::empty(x.sizes(), dtype_of(format));
  const Sink sink{static_cast<uint8_t*>(codes.data_ptr()), x.size(1), nullptr, 0, nullptr, 0};
  kernel_table().fp8_quantize_with(format, scale, x.const_data_ptr<float>(), x.size(1), x.size(0), x.size(1), sink);
  return codes;
}

at::Tensor dequantize(const Quantized& x, const Scheme& scheme) {
  if (!scheme.scaled()) return x.codes.to(at::kFloat);
  const int64_t rows = x.codes.size(0), columns = x.codes.size(1), stride = x.scales.size(1);
  at::Tensor values = at::empty({rows, columns}, at::kFloat);
  float* out = values.data_ptr<float>();
  const auto* codes = static_cast<const uint8_t*>(x.codes.const_data_ptr());
  const float* scales = x.scales.const_data_ptr<float>();
  const Tile tile = resolved(scheme.tile, rows, columns);
  for_each_chunk(tiles(rows, tile.rows), std::max<int64_t>(1, kRowsAtOnce / tile.rows), [&](int64_t, int64_t first, int64_t last) {
    const int64_t begin = first * tile.rows, end = std::min(last * tile.rows, rows);
    kernel_table().fp8_dequantize(scheme.format, tile, codes + begin * columns, columns, scales + first * stride, stride, end - begin, columns,
                                  out + begin * columns, columns);
  });
  return values;
}

at::Tensor rounded(const RowSource& x, const Scheme& scheme, Quantized* codes) {
  if (codes != nullptr) *codes = room_for(scheme, x.rows, x.columns);
  if (!scheme.scaled()) return rounded_rows(x, codes);
  if (scheme.tile.whole()) return rounded_whole(x, scheme, codes);
  at::Tensor values = at::empty({x.rows, x.columns}, at::kFloat);
  float* out = values.data_ptr<float>();
  const Scheme here{scheme.format, resolved(scheme.tile, x.rows, x.columns), scheme.power_of_two_scales};
  const int64_t step = here.tile.rows == 1 ? kRowsAtOnce : here.tile.rows;  // whole tiles
  for_each_chunk(tiles(x.rows, step), 1, [&](int64_t, int64_t first, int64_t end) {
    for (int64_t r = first * step; r < std::min(end * step, x.rows); r += step) {
      const int64_t last = std::min(r + step, x.rows);
      const float* rows = x.make(r, last, out + r * x.columns);
      kernel_table().fp8_quantize(here, rows, x.columns, last - r, x.columns, sink_at(codes, out, x.columns, r, r / here.tile.rows));
    }
  });
  return values;
}

at::Tensor rounded_along_rows(const RowSource& x, const Scheme& scheme, const std::vector<int64_t>& starts) {
  if (!scheme.scaled()) return rounded_rows(x, nullptr);
  if (scheme.tile.whole()) return rounded_whole(x, scheme, nullptr);
  at::Tensor values = at::empty({x.rows, x.columns}, at::kFloat);
  float* out = values.data_ptr<float>();
  const auto runs = row_tiles(x.rows, resolved(scheme.tile, x.rows, 1).rows, starts);
  for_each_task(static_cast<int64_t>(runs.size()), [&](int64_t i) {
    const auto [begin, end] = runs[static_cast<size_t>(i)];
    const float* rows = x.make(begin, end, out + begin * x.columns);
    const Scheme here{scheme.format, {end - begin, resolved(scheme.tile, x.rows, x.columns).columns}, scheme.power_of_two_scales};
    kernel_table().fp8_quantize(here, rows, x.columns, end - begin, x.columns, sink_at(nullptr, out, x.columns, begin, 0));
  });
  return values;
}

at::Tensor rounded_stack(const at::Tensor& x, const Scheme& scheme, int64_t matrices) {
  check_matrix(x);
  if (!scheme.scaled()) return rounded_rows(rows_of(x), nullptr);
  const int64_t rows = x.size(0) / matrices, columns = x.size(1);
  at::Tensor values = at::empty(x.sizes(), at::kFloat);
  const float* data = x.const_data_ptr<float>();
  float* out = values.data_ptr<float>();
  const Scheme here{scheme.format, resolved(scheme.tile, rows, columns), scheme.power_of_two_scales};
  const int64_t bands = tiles(rows, here.tile.rows);
  for_each_task(matrices * bands, [&](int64_t i) {
    const int64_t begin = i / bands * rows + i % bands * here.tile.rows, count = std::min(here.tile.rows, rows - i % bands * here.tile.rows);
    kernel_table().fp8_quantize(here, data + begin * columns, columns, count, columns, sink_at(nullptr, out, columns, begin, 0));
  });
  return values;
}

}  // namespace tessera::kernels::fp8
