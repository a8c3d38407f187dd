#include "model/fp8_blocks.h"

#include <algorithm>

#include "core/error.h"

namespace tessera::model {

namespace fp8 = kernels::fp8;

namespace {

fp8::Scheme scheme_of(const BlockQuantization& block) { return {fp8::Format::kE4m3, {block.rows, block.columns}}; }

int64_t blocks_of(int64_t size, int64_t block) { return (size + block - 1) / block; }

/// Blocks that their old scale gives to the bit keep it.
void keep_scales(const at::Tensor& weight, const BlockQuantization& block, const at::Tensor& before, fp8::Quantized& result) {
  const auto part = [&](const at::Tensor& t, int64_t i, int64_t j) {
    const int64_t row = i * block.rows, column = j * block.columns;
    return t.narrow(0, row, std::min(block.rows, t.size(0) - row)).narrow(1, column, std::min(block.columns, t.size(1) - column));
  };
  for (int64_t i = 0; i < result.scales.size(0); ++i)
    for (int64_t j = 0; j < result.scales.size(1); ++j) {
      const auto scale = before[i][j].item<float>();
      const at::Tensor tile = part(weight, i, j).contiguous();
      if (!(scale > 0)) continue;
      const at::Tensor codes = fp8::quantize_with(tile, fp8::Format::kE4m3, scale);
      if (!codes.to(at::kFloat).mul(scale).equal(tile)) continue;
      part(result.codes, i, j).copy_(codes);
      result.scales[i][j] = scale;
    }
}

}  // namespace

void check_scales(const fp8::Quantized& weight, const BlockQuantization& block, const std::string& what) {
  const std::vector<int64_t> expected = {blocks_of(weight.codes.size(0), block.rows), blocks_of(weight.codes.size(1), block.columns)};
  if (weight.scales.sizes() != at::IntArrayRef(expected))
    throw ConfigError(detail::concat(what, ": scales of shape ", weight.scales.sizes(), " where blocks of ", block.rows, " x ", block.columns,
                                     " make it ", at::IntArrayRef(expected)));
}

at::Tensor dequantize(const fp8::Quantized& weight, const BlockQuantization& block, const std::string& what) {
  check_scales(weight, block, what);
  return fp8::dequantize({weight.codes.contiguous(), weight.scales.to(at::kFloat).contiguous()}, scheme_of(block));
}

fp8::Quantized quantize(const at::Tensor& weight, const BlockQuantization& block, const at::Tensor& before) {
  const at::Tensor dense = weight.contiguous();
  fp8::Quantized result = fp8::quantize(dense, scheme_of(block));
  if (before.defined()) keep_scales(dense, block, before, result);
  return result;
}

}  // namespace tessera::model
