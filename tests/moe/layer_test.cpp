// Dispatch, experts and combine together against a loop over tokens in double.
#include "moe/dispatcher.h"
#include "moe/experts.h"
#include "tests/kernels/test_tensors.h"

namespace tessera::moe {
namespace {

using kernels::expect_close;
using kernels::random_tensor;
using kernels::reference_copy;

struct Case {
  int64_t experts;
  std::vector<std::vector<int32_t>> choices;  // of each token
};

class MoeLayer : public testing::TestWithParam<Case> {};

void make_trainable(const kernels::ParameterPtr& parameter, int64_t seed) {
  parameter->value = random_tensor(parameter->value.sizes().vec(), seed).mul_(0.3).requires_grad_(true);
  parameter->gradient = at::zeros_like(parameter->value);
}

TEST_P(MoeLayer, EqualsALoopOverTokens) {
  const auto& [num_experts, choices] = GetParam();
  const auto tokens = static_cast<int64_t>(choices.size()), k = static_cast<int64_t>(choices[0].size()), dim = int64_t{10}, width = int64_t{6};
  const Experts experts({.num_experts = num_experts, .experts_per_token = k, .intermediate_size = width}, num_experts, dim);
  make_trainable(experts.gate_up(), 1);
  make_trainable(experts.down(), 2);
  at::Tensor index = at::empty({tokens, k}, at::kInt);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t c = 0; c < k; ++c) index[t][c] = choices[static_cast<size_t>(t)][static_cast<size_t>(c)];
  at::Tensor x = random_tensor({tokens, dim}, 3).requires_grad_(true), weights = random_tensor({tokens, k}, 4).requires_grad_(true);
  const at::Tensor base = random_tensor({tokens, dim}, 5), direction = random_tensor({tokens, dim}, 6);

  const auto dispatcher = make_local_dispatcher(num_experts);
  const auto dispatch = dispatcher->dispatch(x, {weights, index});
  const Arrived arrived = dispatch->arrive();
  dispatch->send_back(experts.forward(arrived.tokens, arrived.map, arrived.groups));
  const at::Tensor y = dispatch->combine(base);
  (y * direction).sum().backward();
  const at::Tensor rows = kernels::gather_rows(arrived.tokens, arrived.map);
  int64_t row = 0;
  for (int64_t e = 0; e < num_experts; ++e) {  // in the order (expert, token)
    EXPECT_EQ(arrived.groups.offsets[static_cast<size_t>(e)], row);
    for (int64_t t = 0; t < tokens; ++t)
      for (int32_t chosen : choices[static_cast<size_t>(t)])
        if (chosen == e) {
          EXPECT_TRUE(rows[row++].equal(x[t]));
        }
  }

  at::Tensor rx = reference_copy(x), rweights = reference_copy(weights), rg = reference_copy(experts.gate_up()->value), rd = reference_copy(experts.down()->value);
  std::vector<at::Tensor> outputs;
  for (int64_t t = 0; t < tokens; ++t) {
    at::Tensor sum = base[t].to(at::kDouble);
    for (int64_t c = 0; c < k; ++c) {
      const int64_t e = choices[static_cast<size_t>(t)][static_cast<size_t>(c)];
      const auto parts = rg.narrow(0, e * 2 * width, 2 * width).mv(rx[t]).chunk(2);
      sum = sum + rweights[t][c] * rd.narrow(0, e * dim, dim).mv(at::silu(parts[0]) * parts[1]);
    }
    outputs.push_back(sum);
  }
  const at::Tensor ry = at::stack(outputs);
  (ry * direction.to(at::kDouble)).sum().backward();
  expect_close(y.detach(), ry.detach(), 1e-5, "output");
  expect_close(x.grad(), rx.grad(), 1e-5, "input gradient");
  expect_close(weights.grad(), rweights.grad(), 1e-5, "gradient of the weights");
  expect_close(experts.gate_up()->gradient, rg.grad(), 1e-5, "gradient of gate and up");
  expect_close(experts.down()->gradient, rd.grad(), 1e-5, "gradient of down");
}

INSTANTIATE_TEST_SUITE_P(Loads, MoeLayer,
                         testing::Values(Case{4, {{0, 2}, {2, 3}, {3, 0}, {2, 0}}},  // expert 1 has no tokens
                                         Case{3, {{1}, {1}, {1}, {1}, {1}}},         // all on one expert
                                         Case{5, {{4, 1, 2}}},                       // one token
                                         Case{3, {{2, 0, 1}, {0, 1, 2}}}));          // every expert for every token

}  // namespace
}  // namespace tessera::moe
