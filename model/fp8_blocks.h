// FP8 weights as DeepSeek's files hold them: float8_e4m3fn codes and, for each block of 128 x 128 (fewer at the edges), one
// float32 factor they are multiplied with.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "kernels/fp8/quantize.h"
#include "model/config.h"

namespace tessera::model {

constexpr BlockQuantization kFp8Block{128, 128};

/// Throws ConfigError naming `what` when the scales do not fit.
void check_scales(const kernels::fp8::Quantized& weight, const BlockQuantization& block, const std::string& what);
/// float32 [out, in]. Throws as check_scales.
[[nodiscard]] at::Tensor dequantize(const kernels::fp8::Quantized& weight, const BlockQuantization& block, const std::string& what);

/// The largest magnitude of each block becomes 448. Where `before` is given and a block's values are just those that its old
/// scale gives, the old scale is kept, so that an unchanged weight is written unchanged.
[[nodiscard]] kernels::fp8::Quantized quantize(const at::Tensor& weight, const BlockQuantization& block, const at::Tensor& before = {});

}  // namespace tessera::model
