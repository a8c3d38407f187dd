#include "model/fp8_blocks.h"

#include <torch/torch.h>

#include "core/error.h"
#include "tests/support/support.h"

namespace tessera::model {
namespace {

TEST(Fp8Blocks, RaggedBlocksComeBackWithinHalfAStep) {
  torch::manual_seed(1);
  at::Tensor weight = torch::randn({200, 300});
  weight.narrow(0, 0, 128).narrow(1, 0, 128).mul_(1e-6);
  weight.narrow(0, 128, 72).narrow(1, 256, 44).zero_();
  const kernels::fp8::Quantized packed = quantize(weight, kFp8Block);
  EXPECT_EQ(packed.scales.sizes(), (std::vector<int64_t>{2, 3}));
  const at::Tensor back = dequantize(packed, kFp8Block, "w");
  // Four significant bits; below 2^-6 of the scale's unit the step is fixed.
  const at::Tensor error = (back - weight).abs(), bound = weight.abs() / 16;
  EXPECT_LT((error / (bound + 1e-12)).masked_select(weight.abs() > weight.abs().max() * 1e-2).max().item<double>(), 1.0 + 1e-5);
  EXPECT_EQ(back.narrow(0, 128, 72).narrow(1, 256, 44).abs().max().item<double>(), 0.0);
  const double small = (back - weight).narrow(0, 0, 128).narrow(1, 0, 128).abs().max().item<double>();
  EXPECT_LT(small, 5e-7);  // its own scale
}

TEST(Fp8Blocks, AnUnchangedWeightIsWrittenUnchanged) {
  torch::manual_seed(2);
  kernels::fp8::Quantized packed = quantize(torch::randn({130, 260}), kFp8Block);
  packed.scales = at::pow(2.0, packed.scales.log2().ceil());  // powers of two, as in V3.1: the largest is below 448
  const at::Tensor weight = dequantize(packed, kFp8Block, "w");
  const kernels::fp8::Quantized again = quantize(weight, kFp8Block, packed.scales);
  EXPECT_TRUE(again.scales.equal(packed.scales));
  EXPECT_TRUE(again.codes.view(at::kByte).equal(packed.codes.view(at::kByte)));
  const kernels::fp8::Quantized moved = quantize(weight * 1.01, kFp8Block, packed.scales);
  EXPECT_FALSE(moved.scales.equal(packed.scales));
}

TEST(Fp8Blocks, ScalesOfAnotherShapeAreNamed) {
  kernels::fp8::Quantized packed = quantize(torch::randn({130, 60}), kFp8Block);
  packed.scales = at::ones({1, 1});
  EXPECT_THAT(test::message_of<ConfigError>([&] { (void)dequantize(packed, kFp8Block, "q_proj"); }),
              testing::HasSubstr("q_proj: scales of shape [1, 1] where blocks of 128 x 128 make it [2, 1]"));
}

}  // namespace
}  // namespace tessera::model
