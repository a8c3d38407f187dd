#include "kernels/linear.h"

#include "test_tensors.h"

namespace tessera::kernels {
namespace {

at::Tensor reference_prologue(const at::Tensor& x, const at::Tensor& norm, Prologue prologue, double eps) {
  switch (prologue) {
    case Prologue::kNone: return x;
    case Prologue::kRmsNorm: return x * (x.pow(2).mean(-1, true) + eps).rsqrt() * norm;
    case Prologue::kSwiglu: {
      const auto parts = x.chunk(2, 1);
      return at::silu(parts[0]) * parts[1];
    }
  }
  return x;
}

struct Case {
  Prologue prologue;
  bool bias, residual, adapters;
  int64_t tokens = 13, in = 24, out = 20;
};

class LinearGradients : public testing::TestWithParam<Case> {};

TEST_P(LinearGradients, EqualTheReferencesInDouble) {
  const Case c = GetParam();
  LinearSpec spec;
  spec.weight = random_parameter({c.out, c.in}, 1, 0.3);
  spec.prologue = c.prologue;
  spec.norm_eps = 1e-5f;
  if (c.bias) spec.bias = random_parameter({c.out}, 2);
  if (c.prologue == Prologue::kRmsNorm) spec.norm = random_parameter({c.in}, 3);
  if (c.adapters) spec.adapters.push_back({random_parameter({4, c.in}, 4), random_parameter({8, 4}, 5), 0.5, 6, 14});
  at::Tensor x = random_tensor({c.tokens, c.prologue == Prologue::kSwiglu ? 2 * c.in : c.in}, 6).requires_grad_(true);
  at::Tensor residual = c.residual ? random_tensor({c.tokens, c.out}, 7).requires_grad_(true) : at::Tensor();
  const at::Tensor direction = random_tensor({c.tokens, c.out}, 8);

  const at::Tensor y = linear(x, spec, residual);
  (y * direction).sum().backward();

  at::Tensor rx = reference_copy(x), rw = reference_copy(spec.weight->value);
  at::Tensor rn = spec.norm ? reference_copy(spec.norm->value) : at::Tensor();
  at::Tensor u = reference_prologue(rx, rn, c.prologue, 1e-5);
  at::Tensor ry = u.mm(rw.t());
  at::Tensor rb, rr, ra, rlb;
  if (c.bias) ry = ry + (rb = reference_copy(spec.bias->value));
  if (c.residual) ry = ry + (rr = reference_copy(residual));
  if (c.adapters) {
    ra = reference_copy(spec.adapters[0].a->value);
    rlb = reference_copy(spec.adapters[0].b->value);
    const at::Tensor delta = u.mm(ra.t()).mm(rlb.t()) * 0.5;
    ry = at::cat({ry.slice(1, 0, 6), ry.slice(1, 6, 14) + delta, ry.slice(1, 14)}, 1);
  }
  (ry * direction.to(at::kDouble)).sum().backward();

  expect_close(y.detach(), ry.detach(), 1e-5, "output");
  expect_close(x.grad(), rx.grad(), 1e-5, "input gradient");
  expect_close(spec.weight->gradient, rw.grad(), 1e-5, "weight gradient");
  if (c.bias) expect_close(spec.bias->gradient, rb.grad(), 1e-5, "bias gradient");
  if (c.residual) expect_close(residual.grad(), rr.grad(), 1e-6, "residual gradient");
  if (spec.norm) expect_close(spec.norm->gradient, rn.grad(), 1e-5, "norm gradient");
  if (c.adapters) {
    expect_close(spec.adapters[0].a->gradient, ra.grad(), 1e-5, "A gradient");
    expect_close(spec.adapters[0].b->gradient, rlb.grad(), 1e-5, "B gradient");
  }
  at::NoGradGuard no_grad;
  for (auto* run : {linear_prefill, linear_decode}) {
    at::Tensor first;
    for (int64_t rows : {int64_t{1}, std::min<int64_t>(5, c.tokens), c.tokens}) {
      const at::Tensor y = run(x.detach().narrow(0, 0, rows).contiguous(), spec, c.residual ? residual.detach().narrow(0, 0, rows) : at::Tensor());
      expect_close(y, ry.detach().narrow(0, 0, rows), 1e-5, "inference");
      if (!first.defined()) first = y[0].clone();
      EXPECT_TRUE(y[0].equal(first)) << "of " << rows << " rows";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllForms, LinearGradients,
                         testing::Values(Case{Prologue::kNone, false, false, false}, Case{Prologue::kNone, true, true, false},
                                         Case{Prologue::kRmsNorm, false, false, false},
                                         Case{Prologue::kRmsNorm, true, true, true},
                                         Case{Prologue::kSwiglu, false, true, false},
                                         Case{Prologue::kSwiglu, true, false, true}, Case{Prologue::kNone, false, true, true},
                                         Case{Prologue::kRmsNorm, false, true, false, 40, 33, 70},
                                         Case{Prologue::kSwiglu, false, true, false, 1, 7, 17}));

TEST(Linear, FrozenWeightsGetNoGradientButPassOne) {
  LinearSpec spec;
  spec.weight = random_parameter({5, 6}, 1);
  spec.weight->gradient = at::Tensor();
  spec.weight->value = spec.weight->value.detach();
  at::Tensor x = random_tensor({3, 6}, 2).requires_grad_(true);
  linear(x, spec).sum().backward();
  expect_close(x.grad(), at::ones({3, 5}).mm(spec.weight->value), 1e-6, "input gradient");
}

TEST(Linear, TellsTheOwnerOfTheBucketOnceForEachAddition) {
  LinearSpec spec;
  spec.weight = random_parameter({5, 6}, 1);
  int calls = 0;
  spec.weight->on_gradient = [&] { ++calls; };
  linear(random_tensor({3, 6}, 2), spec).sum().backward();
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace tessera::kernels
