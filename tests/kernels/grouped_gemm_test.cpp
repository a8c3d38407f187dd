#include "kernels/grouped_gemm.h"

#include "kernels/permute.h"
#include "test_tensors.h"

namespace tessera::kernels {
namespace {

struct Case {
  std::vector<int64_t> rows;  // of each expert
  Prologue prologue;
  int64_t in = 24, out = 20;
};

class GroupedLinear : public testing::TestWithParam<Case> {};

TEST_P(GroupedLinear, EqualsOneLinearAnExpert) {
  const Case& c = GetParam();
  const auto experts = static_cast<int64_t>(c.rows.size());
  std::vector<int64_t> offsets = {0};
  for (int64_t rows : c.rows) offsets.push_back(offsets.back() + rows);
  const GroupedLinearSpec spec{random_parameter({experts * c.out, c.in}, 1, 0.3), experts, c.prologue};
  at::Tensor x = random_tensor({offsets.back(), c.prologue == Prologue::kSwiglu ? 2 * c.in : c.in}, 2).requires_grad_(true);
  const at::Tensor direction = random_tensor({offsets.back(), c.out}, 3);
  const at::Tensor y = grouped_linear(x, spec, offsets);
  (y * direction).sum().backward();

  at::Tensor rx = reference_copy(x), rw = reference_copy(spec.weight->value);
  at::Tensor u = rx;
  if (c.prologue == Prologue::kSwiglu) {
    const auto parts = rx.chunk(2, 1);
    u = at::silu(parts[0]) * parts[1];
  }
  std::vector<at::Tensor> outputs;
  for (int64_t e = 0; e < experts; ++e)
    outputs.push_back(u.slice(0, offsets[static_cast<size_t>(e)], offsets[static_cast<size_t>(e) + 1]).mm(rw.narrow(0, e * c.out, c.out).t()));
  const at::Tensor ry = at::cat(outputs, 0);
  (ry * direction.to(at::kDouble)).sum().backward();
  expect_close(y.detach(), ry.detach(), 1e-5, "output");
  expect_close(x.grad(), rx.grad(), 1e-5, "input gradient");
  expect_close(spec.weight->gradient, rw.grad(), 1e-5, "weight gradient");
}

INSTANTIATE_TEST_SUITE_P(Loads, GroupedLinear,
                         testing::Values(Case{{5, 0, 30, 1}, Prologue::kNone}, Case{{5, 0, 30, 1}, Prologue::kSwiglu},
                                         Case{{0, 0, 40}, Prologue::kSwiglu},            // all on one expert
                                         Case{{0, 1, 0, 0}, Prologue::kNone},            // one row
                                         Case{{3, 2, 0, 7}, Prologue::kSwiglu, 33, 70},  // few rows, odd widths
                                         Case{{1100, 20, 0}, Prologue::kNone, 16, 600}));  // more than a block of rows and of outputs

TEST(GroupedLinear, FrozenExpertsPassAGradient) {
  GroupedLinearSpec spec{random_parameter({6, 4}, 1), 2, Prologue::kNone};
  spec.weight->gradient = at::Tensor();
  spec.weight->value = spec.weight->value.detach();
  at::Tensor x = random_tensor({3, 4}, 2).requires_grad_(true);
  grouped_linear(x, spec, {0, 3, 3}).sum().backward();
  expect_close(x.grad(), at::ones({3, 3}).mm(spec.weight->value.narrow(0, 0, 3)), 1e-6, "input gradient");
}

/// Two tokens and three choices each, sorted by an arbitrary expert order.
RowMapPtr example_map() {
  auto map = std::make_shared<RowMap>();
  map->tokens = 2;
  map->choices = 3;
  map->row_of = {4, 0, 2, 1, 5, 3};
  map->slot_of = {1, 3, 2, 5, 0, 4};
  return map;
}

TEST(Permute, GatherAndCombineWithTheirGradients) {
  const RowMapPtr map = example_map();
  at::Tensor x = random_tensor({2, 19}, 1).requires_grad_(true), weights = random_tensor({2, 3}, 2).requires_grad_(true),
             base = random_tensor({2, 19}, 3).requires_grad_(true);
  const at::Tensor factor = random_tensor({6, 1}, 4), direction = random_tensor({2, 19}, 5);
  const at::Tensor rows = gather_rows(x, map);
  for (int64_t row = 0; row < 6; ++row) EXPECT_TRUE(rows[row].equal(x[map->slot_of[static_cast<size_t>(row)] / 3]));
  const at::Tensor y = combine_rows(rows * factor, weights, base, map);
  (y * direction).sum().backward();

  at::Tensor rx = reference_copy(x), rw = reference_copy(weights), rb = reference_copy(base);
  std::vector<at::Tensor> expected;
  for (int64_t t = 0; t < 2; ++t) {
    at::Tensor sum = rb[t];
    for (int64_t k = 0; k < 3; ++k) sum = sum + rw[t][k] * rx[t] * factor[map->row_of[static_cast<size_t>(3 * t + k)]].to(at::kDouble);
    expected.push_back(sum);
  }
  const at::Tensor ry = at::stack(expected);
  (ry * direction.to(at::kDouble)).sum().backward();
  expect_close(y.detach(), ry.detach(), 1e-6, "output");
  expect_close(x.grad(), rx.grad(), 1e-6, "gradient of x");
  expect_close(weights.grad(), rw.grad(), 1e-5, "gradient of the weights");
  expect_close(base.grad(), rb.grad(), 1e-6, "gradient of the base");
}

}  // namespace
}  // namespace tessera::kernels
