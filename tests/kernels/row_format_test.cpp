// Rows as they travel between ranks.
#include "kernels/row_format.h"

#include "hard_numbers.h"
#include "kernels/fp8/quantize.h"
#include "kernels/tensor_accelerator.h"
#include "test_tensors.h"

namespace tessera::kernels {
namespace {

using Kind = RowFormat::Kind;

at::Tensor sent(const at::Tensor& rows, RowFormat format) {
  at::Tensor result = at::full_like(rows, 777);
  unpack(pack(rows, format), format, result);
  return result;
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) { return a.view(at::kInt).equal(b.view(at::kInt)); }

TEST(RowFormat, Fp8CarriesTheQuantisersNumbersAndASecondTripChangesNothing) {
  for (const bool powers : {false, true}) {
    const RowFormat format{Kind::kFp8, powers};
    const fp8::Scheme scheme{fp8::Format::kE4m3, {1, 128}, powers};
    for (const int64_t columns : {1, 6, 128, 130, 2048, 7168}) {
      at::Tensor x = fp8::hard_numbers(256, columns, static_cast<uint64_t>(columns));
      if (powers) x = at::where(x.abs() >= 0x1p127, x * 0.5, x);  // that may round up to infinity
      const at::Tensor once = sent(x, format);
      EXPECT_TRUE(same_bits(once, fp8::dequantize(fp8::quantize(x, scheme), scheme))) << columns;
      EXPECT_TRUE(same_bits(sent(once, format), once)) << columns;
      // Scales that are no powers of two come back too, and with them the codes, but where a whole tile became 0.
      if (!powers) {
        EXPECT_TRUE(pack(once, format).equal(pack(at::where(once == 0, once, x), format))) << columns;
      }
    }
  }
}

// The largest magnitude of a tile becomes the code 448, and 448 (amax / 448) is amax again: the scale 7 s rounds to is never the middle
// of two numbers. Amax here runs through all mantissas.
TEST(RowFormat, ScalesComeBackForEveryMantissa) {
  const RowFormat format{Kind::kFp8};
  at::Tensor x = at::zeros({1 << 15, 256});
  for (int64_t part = 0; part < 2; ++part) {
    for (int64_t i = 0; i < x.size(0); ++i)
      for (int64_t tile = 0; tile < 2; ++tile)
        x[i].data_ptr<float>()[tile * 128] = std::bit_cast<float>(0x3f800000u + static_cast<uint32_t>(((part << 15 | i) * 2 + tile) * 64 + i % 64));
    const at::Tensor packed = pack(x, format);
    EXPECT_TRUE(pack(sent(x, format), format).equal(packed));
  }
}

TEST(RowFormat, Bfloat16RoundsToEvenAndNanStays) {
  const at::Tensor x = at::tensor({1.0f, 1.00390625f, 1.01171875f, -1.00390625f, 1.004f, std::numeric_limits<float>::quiet_NaN()}).view({2, 3});
  const at::Tensor y = sent(x, {Kind::kBfloat16}).view({-1});
  EXPECT_TRUE(y.narrow(0, 0, 5).equal(at::tensor({1.0f, 1.0f, 1.015625f, -1.0f, 1.0078125f})));
  EXPECT_TRUE(std::isnan(y[5].item<float>()));
}

TEST(RowFormat, ADevicePacksTheSameBytes) {
  static const TensorAccelerator operations(at::kCPU);
  for (const bool powers : {false, true})
    for (const int64_t columns : {1, 130, 2048}) {
      const RowFormat format{Kind::kFp8, powers};
      const at::Tensor x = random_tensor({37, columns}, columns), packed = pack(x, format), back = sent(x, format);
      set_accelerator(at::kCPU, &operations);
      const at::Tensor there = pack(x, format), back_there = sent(x, format), none = pack(x.narrow(0, 0, 0), format);
      set_accelerator(at::kCPU, nullptr);
      EXPECT_TRUE(there.equal(packed)) << columns;
      EXPECT_TRUE(same_bits(back_there, back)) << columns;
      EXPECT_EQ(none.size(1), packed.size(1));
    }
}

TEST(RowFormat, TheWayBackRoundsTheGradient) {
  const RowFormat fp8{Kind::kFp8}, bf16{Kind::kBfloat16};
  const at::Tensor x = random_tensor({5, 300}, 1).requires_grad_(true), direction = random_tensor({5, 300}, 2);
  const at::Tensor y = as_if_sent(x, fp8, bf16);
  EXPECT_TRUE(y.detach().equal(sent(x.detach(), fp8)));
  (y * direction).sum().backward();
  EXPECT_TRUE(x.grad().equal(sent(direction, bf16)));
  EXPECT_FALSE(x.grad().equal(direction));
  EXPECT_TRUE(as_if_sent(x, {}, {}).is_same(x));
}

}  // namespace
}  // namespace tessera::kernels
