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
  map->keys = {5, 0, 2, 1, 7, 3};
  map->num_keys = 8;
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

/// The rows of one token whose experts lie in [low, high) of `keys`, by key.
RowMapPtr map_of_range(const std::vector<int32_t>& keys, int32_t low, int32_t high) {
  auto map = std::make_shared<RowMap>();
  map->tokens = 1;
  map->choices = static_cast<int64_t>(keys.size());
  map->num_keys = high - low;
  for (size_t k = 0; k < keys.size(); ++k) {
    const bool here = keys[k] >= low && keys[k] < high;
    map->row_of.push_back(here ? static_cast<int64_t>(map->slot_of.size()) : -1);
    map->keys.push_back(keys[k] - low);
    if (here) map->slot_of.push_back(static_cast<int64_t>(k));
  }
  return map;
}

TEST(Permute, SumsOverAlignedPartsGiveTheBitsOfTheWhole) {
  const std::vector<int32_t> keys = {13, 2, 22, 7, 19, 3, 5, 23};  // of 24 experts
  const auto count = static_cast<int64_t>(keys.size());
  const at::Tensor rows = random_tensor({count, 33}, 1), weights = random_tensor({1, count}, 2), base = random_tensor({1, 33}, 3);
  const at::Tensor whole = combine_rows(rows, weights, base, map_of_range(keys, 0, 24));
  for (int32_t ranks : {2, 4, 8}) {
    const int32_t each = 24 / ranks;
    std::vector<at::Tensor> sums;
    std::vector<int32_t> holders;
    for (int32_t r = 0; r < ranks; ++r) {
      const RowMapPtr map = map_of_range(keys, r * each, (r + 1) * each);
      if (map->slot_of.empty()) continue;
      holders.push_back(r);
      const at::Tensor mine = rows.index_select(0, torch::tensor(map->slot_of));
      sums.push_back(combine_rows(mine, weights, at::zeros({1, 33}), map));
    }
    EXPECT_TRUE(sum_rows(at::cat(sums), base, map_of_range(holders, 0, ranks)).equal(whole)) << ranks;
  }
}

}  // namespace
}  // namespace tessera::kernels
