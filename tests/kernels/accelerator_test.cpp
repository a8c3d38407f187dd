// Tensor operations in the place of the CPU's kernels, function by function; tests/model/device_test.cpp has whole passes.
#include "kernels/tensor_accelerator.h"
#include "tests/kernels/hard_numbers.h"
#include "tests/kernels/test_tensors.h"

namespace tessera::kernels {
namespace {

const TensorAccelerator kOperations(at::kCPU);

void expect_same_codes(const fp8::Quantized& actual, const fp8::Quantized& expected, const fp8::Scheme& scheme, const std::string& what) {
  EXPECT_TRUE(actual.scales.equal(expected.scales)) << what;
  // All NaN are alike.
  const at::Tensor a = fp8::dequantize(actual, scheme), b = fp8::dequantize(expected, scheme);
  EXPECT_TRUE(at::logical_or(a.eq(b), at::logical_and(a.isnan(), b.isnan())).all().item<bool>()) << what;
}

TEST(TensorAccelerator, QuantisesToTheBitsOfTheCpu) {
  int64_t seed = 0;
  for (const fp8::Format format : {fp8::Format::kE4m3, fp8::Format::kE5m2})
    for (const fp8::Tile tile : {fp8::Tile{1, 128}, {128, 1}, {128, 128}, {}})
      for (const bool powers : {false, true})
        for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 1}, {3, 300}, {257, 129}, {128, 256}}) {
          const fp8::Scheme scheme{format, tile, powers};
          const std::string what = std::to_string(++seed);
          const at::Tensor x = fp8::hard_numbers(rows, columns, static_cast<uint64_t>(seed));
          const auto expected = fp8::quantize(x, scheme);
          expect_same_codes(kOperations.quantize(x, scheme, false), expected, scheme, what);
          const auto transposed = kOperations.quantize(x, scheme, true);
          expect_same_codes({transposed.codes.t().contiguous(), transposed.scales.t().contiguous()}, expected, scheme, what + " transposed");
          const at::Tensor values = kOperations.dequantize(expected, scheme, at::kFloat), cpu = fp8::dequantize(expected, scheme);
          EXPECT_TRUE(at::logical_or(values.eq(cpu), at::logical_and(values.isnan(), cpu.isnan())).all().item<bool>()) << what;
        }
}

TEST(TensorAccelerator, MultipliesCodes) {
  const fp8::Scheme rows{fp8::Format::kE4m3, {1, 128}}, blocks{fp8::Format::kE4m3, {128, 128}};
  const at::Tensor a = random_tensor({37, 300}, 1), b = random_tensor({140, 300}, 2);
  const auto qa = fp8::quantize(a, rows), qb = fp8::quantize(b, blocks);
  const at::Tensor expected = fp8::dequantize(qa, rows).mm(fp8::dequantize(qb, blocks).t());
  expect_close(kOperations.scaled_product(qa, rows, qb, blocks, at::kFloat), expected, 1e-5, "float32");
  EXPECT_EQ(kOperations.scaled_product(qa, rows, qb, blocks, at::kBFloat16).scalar_type(), at::kBFloat16);
  const auto qbt = kOperations.quantize(b, blocks, true);
  const at::Tensor dy = random_tensor({37, 140}, 3);
  expect_close(kOperations.scaled_product(kOperations.quantize(dy, rows, false), rows, qbt, blocks.transposed(), at::kFloat),
               fp8::dequantize(fp8::quantize(dy, rows), rows).mm(fp8::dequantize(qb, blocks)), 1e-5, "by the transposed weight");
}

TEST(TensorAccelerator, UpdatesLikeTheCpu) {
  for (const bool narrow : {false, true}) {
    for (const bool stochastic : {false, true}) {
      if (stochastic && !narrow) continue;
      const at::ScalarType type = narrow ? at::kBFloat16 : at::kFloat;
      const auto fresh = [&] { return std::array<at::Tensor, 3>{random_tensor({5001}, 1), at::zeros({5001}, type), at::zeros({5001}, type)}; };
      auto cpu = fresh(), device = fresh();
      for (int64_t step = 1; step <= 4; ++step) {
        const MomentNoise noise{0x123456789ABCDEFULL * static_cast<uint64_t>(step), (int64_t{1} << 32) - 100};  // across 2^32 elements
        const AdamWStep terms{.lr = 1e-2, .step = step, .gradient_scale = 0.7};
        const at::Tensor gradient = random_tensor({5001}, 10 + step);
        const auto update = [&](const std::array<at::Tensor, 3>& x) {
          return AdamWUpdate{x[0], gradient, {x[1], x[2], stochastic ? std::optional(noise) : std::nullopt}, 0.1};
        };
        adamw({update(cpu)}, terms);
        kOperations.adamw({update(device)}, terms);
        for (const int moment : {1, 2}) {  // fused multiplications differ in the last bit of float32, and so a few roundings
          const double off = cpu[static_cast<size_t>(moment)].ne(device[static_cast<size_t>(moment)]).to(at::kDouble).mean().item<double>();
          if (narrow) {
            EXPECT_LE(off, 0.002) << "moment " << moment << " step " << step << (stochastic ? " stochastic" : "");
          }
          device[static_cast<size_t>(moment)].copy_(cpu[static_cast<size_t>(moment)]);
        }
        expect_close(device[0], cpu[0], 1e-6, "weights");
      }
    }
  }
  const at::Tensor x = random_tensor({100003}, 3);
  EXPECT_NEAR(kOperations.sum_of_squares({x}).item<double>(), sum_of_squares({x}).item<double>(), 0.01);  // of 1e5
}

TEST(TensorAccelerator, GradientsInFloat32OfOperandsInBfloat16) {
  const at::Tensor dy = random_tensor({64, 40}, 1).to(at::kBFloat16), u = random_tensor({64, 24}, 2).to(at::kBFloat16);
  at::Tensor gradient = random_tensor({40, 24}, 3);
  const at::Tensor expected = gradient + dy.to(at::kFloat).t().mm(u.to(at::kFloat));
  kOperations.gemm(dy, Transpose::kYes, u, Transpose::kNo, gradient, 1.0, 1.0);
  expect_close(gradient, expected, 1e-6, "sum in float32");
}

}  // namespace
}  // namespace tessera::kernels
