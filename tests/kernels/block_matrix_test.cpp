// Frozen weights as FP8 codes: products have the bits of those with a float32 weight that holds the same numbers.
#include "kernels/fp8/block_matrix.h"

#include "core/error.h"
#include "kernels/fp8/operands.h"
#include "kernels/grouped_gemm.h"
#include "kernels/linear.h"
#include "test_tensors.h"

namespace tessera::kernels {
namespace {

using fp8::BlockMatrix;
using fp8::Tile;

struct Twins {
  ParameterPtr codes = std::make_shared<Parameter>(), values = std::make_shared<Parameter>();
};

/// Frozen weights of stacked matrices: as codes, and as the numbers that these stand for.
Twins twins(const std::vector<int64_t>& matrices, int64_t columns, int64_t seed, Tile block = {128, 128}) {
  int64_t rows = 0;
  for (int64_t count : matrices) rows += count;
  Twins made;
  made.codes->value = at::empty({rows, columns});
  keep_codes(*made.codes);
  std::vector<at::Tensor> parts(matrices.size());
  for (size_t i = matrices.size(); i-- > 0;) {  // in any order
    const fp8::Scheme scheme{fp8::Format::kE4m3, block};
    const fp8::Quantized part = fp8::quantize(random_tensor({matrices[i], columns}, seed + static_cast<int64_t>(i)), scheme);
    rows -= matrices[i];
    made.codes->codes->put(rows, part, block);
    parts[i] = fp8::dequantize(part, scheme);
  }
  made.values->value = at::cat(parts);
  return made;
}

TEST(BlockMatrix, AnyRowsOfStackedMatricesComeBack) {
  for (const Tile block : {Tile{128, 128}, Tile{32, 64}}) {
    const Twins made = twins({130, 7, 300}, 200, 1, block);
    const BlockMatrix& codes = *made.codes->codes;
    EXPECT_TRUE(codes.values().equal(made.values->value));
    EXPECT_FALSE(made.codes->value.defined() && made.codes->value.device().is_cpu()) << "a float32 copy";
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {1, 129}, {127, 140}, {129, 131}, {136, 138}, {136, 437}, {400, 400}})
      EXPECT_TRUE(codes.values(begin, end).equal(made.values->value.slice(0, begin, end))) << begin << " " << end;
  }
}

TEST(BlockMatrix, WhatIsMissingOrPutTwiceIsNoticed) {
  BlockMatrix codes(10, 4);
  const fp8::Quantized part = fp8::quantize(random_tensor({4, 4}, 1), {fp8::Format::kE4m3, {128, 128}});
  codes.put(4, part, {128, 128});
  EXPECT_THROW(codes.put(2, part, {128, 128}), InternalError);
  EXPECT_THROW((void)codes.values(), InternalError);
  EXPECT_THROW((void)codes.values(6, 9), InternalError);
  EXPECT_EQ(codes.values(5, 8).size(0), 3);
}

/// Output and gradients of a linear with adapters over each twin.
TEST(BlockMatrix, LinearsHaveTheBitsOfFloat32) {
  const Twins made = twins({150, 61}, 130, 3);
  std::vector<at::Tensor> results[2];
  for (int side = 0; side < 2; ++side) {
    LinearSpec spec{.weight = side == 0 ? made.codes : made.values, .bias = random_parameter({211}, 5)};
    spec.adapters.push_back({random_parameter({4, 130}, 6), random_parameter({61, 4}, 7), 0.5, 150, 211});
    at::Tensor x = random_tensor({40, 130}, 8).requires_grad_(true);
    const at::Tensor y = linear(x, spec);
    y.backward(random_tensor({40, 211}, 9));
    results[side] = {y.detach(), x.grad(), spec.adapters[0].a->gradient, spec.adapters[0].b->gradient, spec.bias->gradient};
    at::NoGradGuard no_grad;
    for (const int64_t rows : {1, 40}) {
      results[side].push_back(linear_prefill(x.detach().narrow(0, 0, rows), spec));
      results[side].push_back(linear_decode(x.detach().narrow(0, 0, rows), spec));
    }
  }
  for (size_t i = 0; i < results[0].size(); ++i) EXPECT_TRUE(results[0][i].equal(results[1][i])) << i;
}

TEST(BlockMatrix, CodesAreTheOperandsOfProductsInFp8) {
  const Twins made = twins({256, 61}, 130, 3);
  const LinearSpec codes{.weight = made.codes, .fp8 = std::make_shared<fp8::Weight>(*fp8::find_recipe("blockwise"))},
      values{.weight = made.values, .fp8 = std::make_shared<fp8::Weight>(*fp8::find_recipe("blockwise"))};
  EXPECT_TRUE(codes.fp8->of(*made.codes).equal(made.values->value));
  const at::Tensor x = random_tensor({40, 130}, 8);
  // Rounding them again changes nothing where blocks begin at the same rows.
  EXPECT_TRUE(linear(x, codes).equal(linear(x, values)));
}

TEST(BlockMatrix, GroupedLinearsHaveTheBitsOfFloat32) {
  const std::vector<int64_t> offsets = {0, 5, 5, 610, 640};
  for (const Prologue prologue : {Prologue::kNone, Prologue::kSwiglu}) {
    const Twins made = twins({70, 30, 70, 30, 70, 30, 70, 30}, 150, 11);
    std::vector<at::Tensor> results[2];
    for (int side = 0; side < 2; ++side) {
      const GroupedLinearSpec spec{side == 0 ? made.codes : made.values, 4, prologue};
      at::Tensor x = random_tensor({640, prologue == Prologue::kSwiglu ? 300 : 150}, 12).requires_grad_(true);
      const at::Tensor y = grouped_linear(x, spec, offsets);
      y.backward(random_tensor({640, 100}, 13));
      results[side] = {y.detach(), x.grad()};
      at::NoGradGuard no_grad;
      for (const PassKind kind : {PassKind::kPrefill, PassKind::kDecode}) results[side].push_back(grouped_linear(x.detach(), spec, offsets, kind));
    }
    for (size_t i = 0; i < results[0].size(); ++i) EXPECT_TRUE(results[0][i].equal(results[1][i])) << i;
  }
}

}  // namespace
}  // namespace tessera::kernels
