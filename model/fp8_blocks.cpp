#include "model/fp8_blocks.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "core/error.h"

namespace tessera::model {

namespace {

constexpr double kLargest = 448.0;  // of float8_e4m3fn

int64_t blocks_of(int64_t size, int64_t block) { return (size + block - 1) / block; }

/// Runs body(block row, block column, first row, rows, first column, columns).
template <typename Body>
void for_each_block(int64_t rows, int64_t columns, const BlockQuantization& block, const Body& body) {
  for (int64_t i = 0; i * block.rows < rows; ++i)
    for (int64_t j = 0; j * block.columns < columns; ++j)
      body(i, j, i * block.rows, std::min(block.rows, rows - i * block.rows), j * block.columns,
           std::min(block.columns, columns - j * block.columns));
}

bool reproduces(const at::Tensor& tile, double scale) {
  return scale > 0 && tile.div(scale).to(at::kFloat8_e4m3fn).to(at::kFloat).mul(scale).equal(tile);
}

}  // namespace

at::Tensor dequantize(const Fp8Weight& weight, const BlockQuantization& block, const std::string& what) {
  const int64_t rows = weight.values.size(0), columns = weight.values.size(1);
  const std::vector<int64_t> expected = {blocks_of(rows, block.rows), blocks_of(columns, block.columns)};
  if (weight.scales.sizes() != at::IntArrayRef(expected))
    throw ConfigError(detail::concat(what, ": scales of shape ", weight.scales.sizes(), " where blocks of ", block.rows, " x ", block.columns,
                                     " make it ", at::IntArrayRef(expected)));
  at::Tensor result = weight.values.to(at::kFloat);
  const at::Tensor scales = weight.scales.to(at::kFloat);
  for_each_block(rows, columns, block, [&](int64_t i, int64_t j, int64_t row, int64_t count, int64_t column, int64_t width) {
    result.narrow(0, row, count).narrow(1, column, width).mul_(scales[i][j].item<float>());
  });
  return result;
}

Fp8Weight quantize(const at::Tensor& weight, const BlockQuantization& block, const at::Tensor& before) {
  const int64_t rows = weight.size(0), columns = weight.size(1);
  Fp8Weight result{at::empty({rows, columns}, at::kFloat8_e4m3fn),
                   at::empty({blocks_of(rows, block.rows), blocks_of(columns, block.columns)}, at::kFloat)};
  for_each_block(rows, columns, block, [&](int64_t i, int64_t j, int64_t row, int64_t count, int64_t column, int64_t width) {
    const at::Tensor tile = weight.narrow(0, row, count).narrow(1, column, width);
    const auto largest = tile.abs().max().item<float>();
    auto scale = largest > 0 ? static_cast<float>(largest / kLargest) : 1.0f;
    if (before.defined() && reproduces(tile, before[i][j].item<float>())) scale = before[i][j].item<float>();
    result.values.narrow(0, row, count).narrow(1, column, width).copy_(tile.div(scale));
    result.scales[i][j] = scale;
  });
  return result;
}

}  // namespace tessera::model
