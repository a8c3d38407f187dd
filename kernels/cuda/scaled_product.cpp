#include "kernels/cuda/scaled_product.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <exception>

#include "core/log.h"
#include "kernels/tensor_accelerator.h"

namespace tessera::kernels::cuda {

namespace {

constexpr int64_t kMultiple = 16;   // of K and N, in codes
constexpr int64_t kBlocks = 4;      // scales of blocks come in so many along K: 16 bytes
constexpr fp8::Tile kTile = {1, 128}, kBlock = {128, 128};

// at::blas::ScalingType and SwizzleType, as integers in the operator's schema.
enum Scaling : int64_t { kTensorWise = 0, kBlockWise1x128 = 4, kBlockWise128x128 = 5 };
constexpr int64_t kNoSwizzle = 0;

int64_t rounded_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Operand {
  at::Tensor codes, scales;
  int64_t scaling = kTensorWise;
};

/// Scales [R, ceil(K / 128)] where a column's lie next to each other.
at::Tensor column_by_column(const at::Tensor& scales) { return scales.t().contiguous().t(); }

Operand operand_of(const fp8::Quantized& x, const fp8::Scheme& scheme, bool right) {
  at::Tensor codes = x.codes;
  const int64_t padding = rounded_up(codes.size(1), kMultiple) - codes.size(1);
  if (padding > 0) codes = at::constant_pad_nd(codes.view(at::kByte), {0, padding}).view(x.codes.scalar_type());  // code 0 is the number 0
  if (scheme.tile == kTile) return {codes, column_by_column(x.scales), kBlockWise1x128};
  if (scheme.tile == kBlock) {
    const at::Tensor padded = at::constant_pad_nd(x.scales, {0, rounded_up(x.scales.size(1), kBlocks) - x.scales.size(1)});
    return {codes, right ? padded.t() : padded, kBlockWise128x128};
  }
  return {codes, x.scales.reshape({1}), kTensorWise};
}

at::Tensor multiply(const Operand& a, const Operand& b, at::ScalarType type) {
  return at::_scaled_mm_v2(a.codes, b.codes.t(), {a.scales}, {a.scaling}, {kNoSwizzle}, {b.scales}, {b.scaling}, {kNoSwizzle}, std::nullopt, type);
}

/// Whether products of this kind come out as those of the dequantised operands, in both types.
bool works(const fp8::Scheme& scheme_a, const fp8::Scheme& scheme_b, const char* what) {
  const TensorAccelerator reference(at::kCUDA);
  const auto options = at::TensorOptions(at::kFloat).device(at::kCUDA);
  constexpr int64_t kM = 200, kN = 272, kK = 336;  // neither whole blocks nor a multiple of four of them
  // Scales that differ widely: a layout that is read wrongly shows.
  const at::Tensor magnitudes = at::logspace(-2, 2, kK, 10.0, options);
  const auto a = reference.quantize(at::randn({kM, kK}, options) * magnitudes, scheme_a, false);
  const auto b = reference.quantize(at::randn({kN, kK}, options) * magnitudes.flip(0), scheme_b, false);
  const at::Tensor expected = reference.scaled_product(a, scheme_a, b, scheme_b, at::kFloat);
  try {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const at::Tensor product = multiply(operand_of(a, scheme_a, false), operand_of(b, scheme_b, true), type).to(at::kFloat);
      const double error = ((product - expected).norm() / expected.norm()).item<double>();
      if (error < 0.02) continue;
      log::warn("FP8 products ", what, " by LibTorch are off by ", error, " on this device; multiplying in bfloat16 instead");
      return false;
    }
    return true;
  } catch (const std::exception& refused) {
    const std::string text = refused.what();
    log::warn("LibTorch does not multiply in FP8 ", what, " on this device; multiplying in bfloat16 instead (", text.substr(0, text.find('\n')), ')');
    return false;
  }
}

}  // namespace

ScaledProducts::ScaledProducts() {
  const at::NoGradGuard no_grad;
  by_block_ = works({fp8::Format::kE4m3, kTile}, {fp8::Format::kE4m3, kBlock}, "by block");
  by_tile_ = works({fp8::Format::kE4m3, kTile}, {fp8::Format::kE4m3, kTile}, "by tile");
  by_tensor_ = works({fp8::Format::kE5m2, {}}, {fp8::Format::kE4m3, {}}, "by tensor");
  log::info("FP8 products in FP8: by block ", by_block_ ? "yes" : "no", ", by tile ", by_tile_ ? "yes" : "no", ", by tensor ", by_tensor_ ? "yes" : "no");
}

at::Tensor ScaledProducts::product(const fp8::Quantized& a, const fp8::Scheme& scheme_a, const fp8::Quantized& b, const fp8::Scheme& scheme_b,
                                   at::ScalarType type) const {
  const bool e4m3 = scheme_a.format == fp8::Format::kE4m3 && scheme_b.format == fp8::Format::kE4m3;
  const bool can = scheme_a.tile == kTile && scheme_b.tile == kBlock   ? by_block_ && e4m3
                   : scheme_a.tile == kTile && scheme_b.tile == kTile ? by_tile_ && e4m3
                   : scheme_a.tile.whole() && scheme_b.tile.whole()   ? by_tensor_ && (scheme_a.format == fp8::Format::kE4m3 || scheme_b.format == fp8::Format::kE4m3)
                                                                      : false;
  if (!can || a.codes.size(0) == 0 || a.codes.size(1) == 0 || b.codes.size(0) % kMultiple != 0) return {};
  return multiply(operand_of(a, scheme_a, false), operand_of(b, scheme_b, true), type);
}

}  // namespace tessera::kernels::cuda
