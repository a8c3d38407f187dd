// Experts on several ranks against all of them on one: the same tokens, routing and weights give the same outputs and
// gradients. Every rank computes the reference over the tokens of all ranks.
#include "moe/dispatcher.h"

#include "core/error.h"
#include "moe/experts.h"
#include "tests/kernels/test_tensors.h"
#include "tests/parallel/mpi_main.h"

namespace tessera::moe {
namespace {

using kernels::expect_close;
using kernels::random_tensor;
using parallel::test_world;

constexpr int64_t kDim = 6, kWidth = 5, kChoices = 3;

struct Tokens {
  int64_t count;
  at::Tensor x, weights, base, direction, experts;
};

/// Tokens of a rank. `fashion`: how they choose.
Tokens tokens_of(int rank, int64_t count, int64_t num_experts, const std::string& fashion) {
  const int64_t seed = 100 * (rank + 1);
  Tokens tokens{count, random_tensor({count, kDim}, seed), random_tensor({count, kChoices}, seed + 1), random_tensor({count, kDim}, seed + 2),
                random_tensor({count, kDim}, seed + 3), at::empty({count, kChoices}, at::kInt)};
  int32_t* chosen = tokens.experts.data_ptr<int32_t>();
  for (int64_t t = 0; t < count; ++t)
    for (int64_t k = 0; k < kChoices; ++k)
      chosen[t * kChoices + k] = static_cast<int32_t>(fashion == "first" ? k : (t * (rank + 3) + k * (1 + t % 2)) % num_experts);
  return tokens;
}

void train(const kernels::ParameterPtr& parameter, const at::Tensor& value) {
  parameter->value = value.clone().requires_grad_(true);
  parameter->gradient = at::zeros_like(value);
}

struct Result {
  at::Tensor y, dx, dweights, dbase, gate_up, down;
};

using Kind = kernels::RowFormat::Kind;
const Wire kExact, kDeepseek{{Kind::kFp8}, {Kind::kBfloat16}}, kPowers{{Kind::kFp8, true}, {}}, kBfloat16{{Kind::kBfloat16}, {Kind::kBfloat16}};

Result run(const Dispatcher& dispatcher, const Tokens& tokens, const at::Tensor& gate_up, const at::Tensor& down, const Wire& wire = kExact) {
  const int64_t count = dispatcher.num_local_experts();
  const Experts experts({.num_experts = count, .experts_per_token = kChoices, .intermediate_size = kWidth}, count, kDim);
  train(experts.gate_up(), gate_up);
  train(experts.down(), down);
  const at::Tensor x = tokens.x.clone().requires_grad_(true), weights = tokens.weights.clone().requires_grad_(true),
                   base = tokens.base.clone().requires_grad_(true);
  const auto dispatch = dispatcher.dispatch(x, {weights, tokens.experts}, wire);
  const Arrived arrived = dispatch->arrive();
  dispatch->send_back(experts.forward(arrived.tokens, arrived.map, arrived.groups));
  const at::Tensor y = dispatch->combine(base);
  (y * tokens.direction).sum().backward();
  return {y.detach(), x.grad(), weights.grad(), base.grad(), experts.gate_up()->gradient, experts.down()->gradient};
}

class AllToAll : public testing::TestWithParam<std::pair<const char*, std::vector<int64_t>>> {};

/// `sums_tolerance`: of what several ranks add up, each having rounded its part.
void expect_one_ranks(const std::pair<const char*, std::vector<int64_t>>& param, const Wire& wire, double sums_tolerance) {
  parallel::Communicator& world = test_world();
  const auto& [fashion, counts] = param;
  const int64_t num_experts = 2 * world.size() + (world.size() == 2 ? 2 : 0);
  const int64_t gate_rows = 2 * kWidth, local = num_experts / world.size();
  const at::Tensor gate_up = random_tensor({num_experts * gate_rows, kDim}, 1), down = random_tensor({num_experts * kDim, kWidth}, 2);
  Tokens all{0, {}, {}, {}, {}, {}};
  std::vector<at::Tensor> x, weights, base, direction, experts;
  int64_t begin = 0;
  for (int r = 0; r < world.size(); ++r) {
    const int64_t count = counts[static_cast<size_t>(r) % counts.size()];
    const Tokens tokens = tokens_of(r, count, num_experts, fashion);
    if (r < world.rank()) begin += count;
    x.push_back(tokens.x), weights.push_back(tokens.weights), base.push_back(tokens.base);
    direction.push_back(tokens.direction), experts.push_back(tokens.experts);
    all.count += count;
  }
  all = {all.count, at::cat(x), at::cat(weights), at::cat(base), at::cat(direction), at::cat(experts)};
  const Result expected = run(*make_local_dispatcher(num_experts), all, gate_up, down, wire);

  const int64_t mine = counts[static_cast<size_t>(world.rank()) % counts.size()];
  const auto dispatcher = make_all_to_all_dispatcher(num_experts, parallel::ExpertAxis{&world, nullptr, nullptr});
  EXPECT_EQ(dispatcher->num_local_experts(), local);
  const int64_t first = dispatcher->first_expert();
  const Result found = run(*dispatcher, tokens_of(world.rank(), mine, num_experts, fashion), gate_up.narrow(0, first * gate_rows, local * gate_rows),
                           down.narrow(0, first * kDim, local * kDim), wire);
  const auto part = [&](const at::Tensor& whole) { return whole.narrow(0, begin, mine); };
  EXPECT_TRUE(at::allclose(found.y, part(expected.y), sums_tolerance, sums_tolerance));
  EXPECT_TRUE(at::allclose(found.dx, part(expected.dx), sums_tolerance, sums_tolerance));
  EXPECT_TRUE(at::allclose(found.dweights, part(expected.dweights), 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(found.dbase, part(expected.dbase), 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(found.gate_up, expected.gate_up.narrow(0, first * gate_rows, local * gate_rows), 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(found.down, expected.down.narrow(0, first * kDim, local * kDim), 1e-5, 1e-5));
}

TEST_P(AllToAll, EqualsOneRank) { expect_one_ranks(GetParam(), kExact, 1e-5); }

// What travels is rounded by token, so that one rank rounds the very same; only parts of sums are each rank's own.
TEST_P(AllToAll, RoundedRowsEqualOneRanks) {
  expect_one_ranks(GetParam(), kPowers, 1e-5);
  expect_one_ranks(GetParam(), kDeepseek, 0.03);
  expect_one_ranks(GetParam(), kBfloat16, 0.03);
}

INSTANTIATE_TEST_SUITE_P(, AllToAll,
                         testing::Values(std::pair<const char*, std::vector<int64_t>>{"spread", {7, 12}},
                                         std::pair<const char*, std::vector<int64_t>>{"spread", {9, 0}},     // a rank without tokens
                                         std::pair<const char*, std::vector<int64_t>>{"first", {5, 6, 4}},   // most ranks' experts idle
                                         std::pair<const char*, std::vector<int64_t>>{"spread", {1}},
                                         std::pair<const char*, std::vector<int64_t>>{"spread", {0}}));      // nobody has any

// Four ranks as two nodes of two: the bits of one hop, and a token crosses to a node once, however many of its experts are
// there.
TEST(TwoHops, GiveTheBitsOfOneAndCrossOnce) {
  parallel::Communicator& world = test_world();
  if (world.size() != 4) GTEST_SKIP() << "needs four ranks";
  const parallel::Mesh one(world, {.ep = 4, .ranks_per_node = 4}), two(world, {.ep = 4, .ranks_per_node = 2});
  ASSERT_FALSE(one.experts().two_hops());
  ASSERT_TRUE(two.experts().two_hops());
  const int64_t num_experts = 8, local = 2, gate_rows = 2 * kWidth, first = world.rank() * local;
  const at::Tensor gate_up = random_tensor({local * gate_rows, kDim}, 1 + world.rank()), down = random_tensor({local * kDim, kWidth}, 9 + world.rank());
  for (const int64_t count : {int64_t{0}, int64_t{1}, 7 + int64_t{world.rank()}}) {
    const Tokens tokens = tokens_of(world.rank(), count, num_experts, "spread");
    std::vector<Passage> passages;
    const auto near = make_all_to_all_dispatcher(num_experts, one.experts()), far = make_all_to_all_dispatcher(num_experts, two.experts(), "", &passages);
    EXPECT_EQ(far->first_expert(), first);
    const Result a = run(*near, tokens, gate_up, down), b = run(*far, tokens, gate_up, down);
    EXPECT_TRUE(a.y.equal(b.y) && a.dx.equal(b.dx) && a.dweights.equal(b.dweights) && a.dbase.equal(b.dbase));
    EXPECT_TRUE(a.gate_up.equal(b.gate_up) && a.down.equal(b.down));
    // Codes are handed on as they are: quantising again gives them again.
    for (const Wire& wire : {Wire{{Kind::kFp8}, {}}, kPowers}) {
      const Result c = run(*near, tokens, gate_up, down, wire), d = run(*far, tokens, gate_up, down, wire);
      EXPECT_TRUE(c.y.equal(d.y) && c.dx.equal(d.dx) && c.dweights.equal(d.dweights));
      EXPECT_TRUE(c.gate_up.equal(d.gate_up) && c.down.equal(d.down));
      EXPECT_TRUE(count == 0 || !c.y.equal(a.y));
      passages.resize(2);
    }
    ASSERT_EQ(passages.size(), 2u);
    std::vector<int64_t> expected(2, 0);  // tokens with an expert on the node
    const int32_t* chosen = tokens.experts.const_data_ptr<int32_t>();
    for (int64_t t = 0; t < count; ++t)
      for (int32_t node = 0; node < 2; ++node)
        expected[static_cast<size_t>(node)] += std::any_of(chosen + t * kChoices, chosen + (t + 1) * kChoices, [&](int32_t e) { return e / 4 == node; });
    EXPECT_EQ(passages[0].departing, expected);
  }
}

// DeepSeek-V3's hidden sizes. What is counted besides rows of tokens is the same in all formats, and follows from float32's bytes
// being twice bfloat16's.
TEST(AllToAllDispatcher, Fp8HalvesBfloat16sBytes) {
  parallel::Communicator& world = test_world();
  const int64_t num_experts = 2 * world.size();
  const auto dispatcher = make_all_to_all_dispatcher(num_experts, parallel::ExpertAxis{&world, nullptr, nullptr});
  const auto sent = [&] {
    int64_t bytes = 0;
    for (const auto& [axis, traffic] : world.traffic()) bytes += traffic.bytes;
    return bytes;
  };
  for (const int64_t dim : {2048, 7168}) {
    const Tokens tokens = tokens_of(world.rank(), 3, num_experts, "spread");
    const at::Tensor x = random_tensor({tokens.count, dim}, 5);
    const auto bytes = [&](Kind kind) {
      const int64_t before = sent();
      (void)dispatcher->dispatch(x, {tokens.weights, tokens.experts}, {{kind}, {}})->arrive();
      return static_cast<double>(sent() - before);
    };
    const double all32 = bytes(Kind::kFloat32), all16 = bytes(Kind::kBfloat16), in16 = all32 - all16;
    ASSERT_GT(in16, 0);
    const double share = (bytes(Kind::kFp8) - (all16 - in16)) / in16;
    EXPECT_LE(share, 0.53) << dim;
    EXPECT_GE(share, 0.5) << dim;
    RecordProperty("share_" + std::to_string(dim), std::to_string(share));
  }
}

TEST(AllToAllDispatcher, ExpertsMustBeDealtEqually) {
  EXPECT_THROW((void)make_all_to_all_dispatcher(2 * test_world().size() + 1, parallel::ExpertAxis{&test_world(), nullptr, nullptr}), ConfigError);
}

}  // namespace
}  // namespace tessera::moe
