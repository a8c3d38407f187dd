#include "kernels/fp8/quantize.h"

#include <random>

#include "fp8_reference.h"
#include "hard_numbers.h"
#include "instruction_sets.h"
#include "test_tensors.h"

namespace tessera::kernels::fp8 {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();

const uint8_t* bytes_of(const at::Tensor& codes) { return static_cast<const uint8_t*>(codes.const_data_ptr()); }

TEST(Fp8Quantize, TenMillionHardNumbersOnEveryInstructionSetEqualThePlainReference) {
  constexpr int64_t kRows = 20000, kColumns = 512;
  const at::Tensor x = hard_numbers(kRows, kColumns, 7);
  at::Tensor codes = at::empty({kRows, kColumns}, at::kByte), scales = at::empty({kRows, 4}), values = at::empty({kRows, kColumns});
  at::Tensor again = at::empty({kRows, kColumns});
  int64_t compared = 0;
  for (Format format : {Format::kE4m3, Format::kE5m2}) {
    for (bool power_of_two : {false, true}) {
      const Scheme scheme{format, {1, 128}, power_of_two};
      const PlainResult plain = plain_quantize(x.const_data_ptr<float>(), kRows, kColumns, scheme);
      for (const KernelTable* table : instruction_sets()) {
        const Sink sink{codes.data_ptr<uint8_t>(), kColumns, scales.data_ptr<float>(), 4, values.data_ptr<float>(), kColumns};
        table->fp8_quantize(scheme, x.const_data_ptr<float>(), kColumns, kRows, kColumns, sink);
        EXPECT_EQ(different(codes.const_data_ptr<uint8_t>(), plain.codes), 0) << table->name;
        EXPECT_EQ(different(scales.const_data_ptr<float>(), plain.scales), 0) << table->name;
        EXPECT_EQ(different(values.const_data_ptr<float>(), plain.values), 0) << table->name;
        table->fp8_dequantize(format, scheme.tile, codes.const_data_ptr<uint8_t>(), kColumns, scales.const_data_ptr<float>(), 4, kRows, kColumns,
                              again.data_ptr<float>(), kColumns);
        EXPECT_EQ(different(again.const_data_ptr<float>(), plain.values), 0) << table->name << ", from codes";
        compared += kRows * kColumns;
      }
    }
  }
  RecordProperty("compared", std::to_string(compared));
}

TEST(Fp8Quantize, AnyShapeAndTileEqualsThePlainReference) {
  std::mt19937_64 draw(3);
  for (int i = 0; i < 60; ++i) {
    const auto rows = static_cast<int64_t>(1 + draw() % 300), columns = static_cast<int64_t>(1 + draw() % 300);
    const at::Tensor x = hard_numbers(rows, columns, draw());
    const Format format = i % 3 == 2 ? Format::kE5m2 : Format::kE4m3;
    for (Tile tile : {Tile{1, 128}, Tile{128, 128}, Tile{128, 1}, Tile{0, 0}, Tile{32, 16}, Tile{1, 0}}) {
      const Scheme scheme{format, tile, i % 2 == 1};
      const PlainResult plain = plain_quantize(x.const_data_ptr<float>(), rows, columns, scheme);
      const Quantized packed = quantize(x, scheme);
      EXPECT_EQ(different(bytes_of(packed.codes), plain.codes), 0) << rows << " x " << columns << " by " << tile.rows << " x " << tile.columns;
      EXPECT_EQ(different(packed.scales.const_data_ptr<float>(), plain.scales), 0);
      EXPECT_EQ(different(dequantize(packed, scheme).const_data_ptr<float>(), plain.values), 0);
      Quantized codes;
      EXPECT_EQ(different(rounded(rows_of(x), scheme, &codes).const_data_ptr<float>(), plain.values), 0);
      EXPECT_EQ(different(bytes_of(codes.codes), plain.codes), 0);
      if (tile.rows > 1) continue;
      EXPECT_EQ(different(rounded(rows_of(packed, scheme), {format, {0, 0}}).const_data_ptr<float>(),
                          plain_quantize(plain.values.data(), rows, columns, {format, {0, 0}}).values), 0);
    }
  }
}

TEST(Fp8Quantize, TilesAlongRowsBeginAnewWhereTold) {
  std::mt19937_64 draw(5);
  for (int i = 0; i < 40; ++i) {
    const auto rows = static_cast<int64_t>(1 + draw() % 500), columns = static_cast<int64_t>(1 + draw() % 150);
    const at::Tensor x = hard_numbers(rows, columns, draw());
    std::vector<int64_t> starts = {0};
    while (draw() % 3 != 0 && starts.back() < rows) starts.push_back(std::min(rows, starts.back() + static_cast<int64_t>(draw() % 200)));
    const Scheme scheme{Format::kE4m3, {128, 1}, i % 2 == 1};
    const PlainResult plain = plain_quantize(x.const_data_ptr<float>(), rows, columns, scheme, starts);
    EXPECT_EQ(different(rounded_along_rows(rows_of(x), scheme, starts).const_data_ptr<float>(), plain.values), 0) << rows << " x " << columns;

    const Scheme by_row{Format::kE4m3, {1, 128}, i % 2 == 1};
    const Quantized cached = quantize(x, by_row);
    const at::Tensor back = dequantize(cached, by_row);
    EXPECT_EQ(different(rounded_along_rows(rows_of(cached, by_row), scheme, starts).const_data_ptr<float>(),
                        plain_quantize(back.const_data_ptr<float>(), rows, columns, scheme, starts).values), 0) << "requantised";
  }
}

TEST(Fp8Quantize, EachMatrixOfAStackHasItsOwnBlocks) {
  const at::Tensor x = hard_numbers(3 * 150, 200, 1);
  for (Tile tile : {Tile{128, 128}, Tile{0, 0}}) {
    const at::Tensor values = rounded_stack(x, {Format::kE4m3, tile}, 3);
    for (int64_t m = 0; m < 3; ++m)
      EXPECT_EQ(different(values[m * 150].const_data_ptr<float>(),
                          plain_quantize(x[m * 150].const_data_ptr<float>(), 150, 200, {Format::kE4m3, tile}).values), 0);
  }
}

// LibTorch's casts make NaN of what would round above the largest value; we saturate.
TEST(Fp8Quantize, ElementsEqualLibTorchsCasts) {
  std::vector<float> numbers;
  for (uint32_t high = 0; high < (1U << 16); ++high)
    for (uint32_t low : {0U, 1U, 0x7FFFU, 0x8000U, 0x8001U, 0xFFFFU, (high * 2654435761U) >> 16}) numbers.push_back(std::bit_cast<float>(high << 16 | low));
  const at::Tensor x = at::tensor(numbers).view({1, -1});
  for (const auto& [format, dtype, limit] : {std::tuple{Format::kE4m3, at::kFloat8_e4m3fn, 464.0f}, std::tuple{Format::kE5m2, at::kFloat8_e5m2, 61439.996f}}) {
    const at::Tensor ours = quantize_with(x, format, 1.0f), theirs = x.to(dtype);
    const at::Tensor values = theirs.to(at::kFloat);
    int64_t compared = 0, unequal = 0, unsaturated = 0;
    for (size_t i = 0; i < numbers.size(); ++i) {
      const uint8_t a = bytes_of(ours)[i], b = bytes_of(theirs)[i];
      if (std::abs(numbers[i]) <= limit || !std::isfinite(numbers[i])) {
        ++compared;
        unequal += a != b && !std::isnan(numbers[i]);
        unequal += std::isnan(numbers[i]) && !(std::isnan(values.const_data_ptr<float>()[i]) && (a & 0x7F) == 0x7F);
      } else {
        unsaturated += (a & 0x7F) != (format == Format::kE4m3 ? 0x7E : 0x7B);
      }
    }
    EXPECT_EQ(unequal, 0);
    EXPECT_EQ(unsaturated, 0);
    EXPECT_GT(compared, 200000);
    const at::Tensor decoded = dequantize({theirs, at::ones({1, 1})}, {format, {0, 0}});
    const float* reference = values.const_data_ptr<float>();
    EXPECT_EQ(different(decoded.const_data_ptr<float>(), {reference, reference + values.numel()}), 0);
  }
}

TEST(Fp8Quantize, ZerosTinyNumbersAndWhatIsNotFinite) {
  const Scheme scheme{Format::kE4m3, {1, 4}};
  const at::Tensor x = at::tensor({0.0f, -0.0f, 0.0f, 0.0f, 1e-44f, 0.0f, 0.0f, 0.0f, kInfinity, 448.0f, kNan, -1.0f}).view({3, 4});
  const Quantized packed = quantize(x, scheme);
  EXPECT_EQ(packed.scales[0][0].item<float>(), 1.0f);
  EXPECT_EQ(packed.scales[1][0].item<float>(), 0x1p-126f);
  EXPECT_EQ(packed.scales[2][0].item<float>(), 1.0f) << "of the finite elements";
  const at::Tensor back = dequantize(packed, scheme);
  EXPECT_TRUE(back[0].equal(x[0]));
  EXPECT_TRUE(std::signbit(back[0][1].item<float>()));
  EXPECT_TRUE(std::isnan(back[2][0].item<float>()) && std::isnan(back[2][2].item<float>()));
  EXPECT_EQ(back[2][1].item<float>(), 448.0f);
  EXPECT_EQ(back[2][3].item<float>(), -1.0f);
  const at::Tensor wide = dequantize(quantize(x, {Format::kE5m2, {1, 4}}), {Format::kE5m2, {1, 4}});
  EXPECT_EQ(wide[2][0].item<float>(), kInfinity);
  for (int64_t rows : {0, 3}) {
    const at::Tensor none = at::empty({rows, rows == 0 ? 5 : 0});
    EXPECT_EQ(dequantize(quantize(none, scheme), scheme).numel(), 0);
    EXPECT_EQ(rounded(rows_of(none), {Format::kE4m3, {0, 0}}).numel(), 0);
    EXPECT_EQ(rounded_along_rows(rows_of(none), {Format::kE4m3, {128, 1}}, {}).numel(), 0);
  }
}

/// Largest error relative to the largest magnitude of what shares a scale, and relative error of normal numbers.
TEST(Fp8Quantize, ErrorsStayWithinTheFormatsBound) {
  const at::Tensor x = random_tensor({64, 1024}, 3).mul_(random_tensor({64, 1}, 4).exp_());
  const at::Tensor error = (rounded(rows_of(x), {Format::kE4m3, {1, 128}}) - x).abs();
  const at::Tensor largest = x.abs().view({64, 8, 128}).amax(2, true).expand({64, 8, 128}).reshape({64, 1024});
  const at::Tensor bound = at::maximum(x.abs() * 0x1p-4 * 1.000001, largest * (0x1p-10 / 448 * 1.000001));
  EXPECT_TRUE((error <= bound).all().item<bool>());
}

// A row with one channel a thousand times the others: with one scale for all, what is small loses its digits.
TEST(Fp8Quantize, SmallTilesKeepWhatAnOutlierWouldDrown) {
  at::Tensor x = random_tensor({256, 512}, 3);
  x.select(1, 17).mul_(20000.0);
  const auto error = [&](Tile tile) {
    const at::Tensor others = at::cat({x.slice(1, 0, 17), x.slice(1, 128)}, 1);
    const at::Tensor back = rounded(rows_of(x), {Format::kE4m3, tile});
    return ((at::cat({back.slice(1, 0, 17), back.slice(1, 128)}, 1) - others).norm() / others.norm()).item<double>();
  };
  const double by_tile = error({1, 128}), by_tensor = error({0, 0});
  RecordProperty("by_tile", std::to_string(by_tile));
  RecordProperty("by_tensor", std::to_string(by_tensor));
  EXPECT_LT(by_tile, 0.2);
  EXPECT_GT(by_tensor, 2 * by_tile);
}

}  // namespace
}  // namespace tessera::kernels::fp8
