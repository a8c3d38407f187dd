#include "kernels/cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "kernels/optimizer.h"
#include "test_tensors.h"

namespace tessera::kernels {
namespace {

TEST(LinearCrossEntropy, EqualsTheReferenceInLossAndGradients) {
  const int64_t tokens = 30, dim = 24, vocabulary = 101;
  LinearSpec head;
  head.weight = random_parameter({vocabulary, dim}, 1);
  head.norm = random_parameter({dim}, 2);
  head.prologue = Prologue::kRmsNorm;
  head.norm_eps = 1e-5f;
  Targets targets;
  for (int64_t i = 0; i < 19; ++i) {
    targets.sources.push_back(i * 3 % tokens);  // some rows predict twice
    targets.ids.push_back(static_cast<int32_t>(i * 37 % vocabulary));
    targets.weights.push_back(0.1f * static_cast<float>(i % 4 + 1));
  }
  at::Tensor hidden = random_tensor({tokens, dim}, 3).requires_grad_(true);
  const CrossEntropy result = linear_cross_entropy(hidden, head, targets);
  result.loss.backward();

  at::Tensor rh = reference_copy(hidden), rw = reference_copy(head.weight->value), rn = reference_copy(head.norm->value);
  const at::Tensor rows = rh.index_select(0, at::tensor(targets.sources, at::kLong));
  const at::Tensor u = rows * (rows.pow(2).mean(-1, true) + 1e-5).rsqrt() * rn;
  const at::Tensor ids = at::tensor(targets.ids, at::kInt).to(at::kLong).unsqueeze(1);
  const at::Tensor log_probs = u.mm(rw.t()).log_softmax(1).gather(1, ids).squeeze(1);
  const at::Tensor loss = -(log_probs * at::tensor(targets.weights, at::kFloat).to(at::kDouble)).sum();
  loss.backward();
  expect_close(result.log_probs, log_probs.detach(), 1e-5, "log-probabilities");
  expect_close(result.loss.detach(), loss.detach(), 1e-5, "loss");
  expect_close(hidden.grad(), rh.grad(), 1e-5, "hidden gradient");
  expect_close(head.weight->gradient, rw.grad(), 1e-5, "head gradient");
  expect_close(head.norm->gradient, rn.grad(), 1e-5, "norm gradient");

  at::NoGradGuard no_grad;
  expect_close(linear_cross_entropy(hidden, head, targets).log_probs, log_probs.detach(), 1e-5, "without gradients");
}

/// A smooth function of the log-probabilities; the entropies are only looked at.
double smooth_loss(const float* log_probs, size_t count, float* weights) {
  double loss = 0;
  for (size_t i = 0; i < count; ++i) {
    const double p = log_probs[i], factor = i % 3 == 0 ? -0.4 : 0.1 * static_cast<double>(i % 5);  // of both signs, some 0
    loss += factor * std::sin(p) + 0.01 * p * p;
    weights[i] = static_cast<float>(-(factor * std::cos(p) + 0.02 * p));
  }
  return loss;
}

constexpr int64_t kWide = int64_t{1} << 19;  // words: a chunk then holds 32 targets

struct LogProbLossCase {
  const char* name;
  int64_t vocabulary, count;
  bool norm, bias;
  int64_t kept_logits = LogProbLoss{}.kept_logits;
};

class LinearLogProbLoss : public testing::TestWithParam<LogProbLossCase> {};

TEST_P(LinearLogProbLoss, EqualsTheReferenceInLossEntropiesAndGradients) {
  const auto& [name, vocabulary, num_targets, norm, bias, kept_logits] = GetParam();
  const int64_t tokens = 40, dim = vocabulary == kWide ? 4 : 24;
  const auto count = static_cast<size_t>(num_targets);
  constexpr double kTemperature = 0.7;
  LinearSpec head;
  head.weight = random_parameter({vocabulary, dim}, 1, 0.5);
  if (norm) {
    head.norm = random_parameter({dim}, 2);
    head.prologue = Prologue::kRmsNorm;
    head.norm_eps = 1e-5f;
  }
  if (bias) head.bias = random_parameter({vocabulary}, 4);
  Targets targets;
  for (int64_t i = 0; i < num_targets; ++i) {
    targets.sources.push_back(i * 3 % tokens);
    targets.ids.push_back(static_cast<int32_t>(i * 7919 % vocabulary));
  }
  std::vector<float> entropies(count);
  int calls = 0;
  LogProbLoss loss{kTemperature, [&](const float* log_probs, const float* given, float* weights) {
                           ++calls;
                           std::copy_n(given, count, entropies.begin());
                           return smooth_loss(log_probs, count, weights);
                         }};
  loss.kept_logits = kept_logits;
  at::Tensor hidden = random_tensor({tokens, dim}, 3).requires_grad_(true);
  const CrossEntropy result = linear_log_prob_loss(hidden, head, targets, loss);
  result.loss.backward();
  EXPECT_EQ(calls, 1);

  at::Tensor rh = reference_copy(hidden), rw = reference_copy(head.weight->value);
  at::Tensor rn = norm ? reference_copy(head.norm->value) : at::Tensor(), rb = bias ? reference_copy(head.bias->value) : at::Tensor();
  at::Tensor u = rh.index_select(0, at::tensor(targets.sources, at::kLong));
  if (norm) u = u * (u.pow(2).mean(-1, true) + 1e-5).rsqrt() * rn;
  at::Tensor logits = u.mm(rw.t());
  if (bias) logits = logits + rb;
  const at::Tensor all = (logits / kTemperature).log_softmax(1);
  const at::Tensor log_probs = all.gather(1, at::tensor(targets.ids, at::kInt).to(at::kLong).unsqueeze(1)).squeeze(1);
  const at::Tensor index = at::arange(num_targets, at::kLong);
  const at::Tensor factor = at::where(index.remainder(3) == 0, at::full({}, -0.4, at::kDouble), index.remainder(5).to(at::kDouble) * 0.1);
  const at::Tensor expected = (factor * log_probs.sin() + 0.01 * log_probs.pow(2)).sum();
  expected.backward();
  expect_close(result.log_probs, log_probs.detach(), 1e-5, "log-probabilities");
  expect_close(at::tensor(entropies), -(all.exp() * all).sum(1).detach(), 1e-5, "entropies");
  expect_close(result.loss.detach(), expected.detach(), 1e-5, "loss");
  expect_close(hidden.grad(), rh.grad(), 1e-5, "hidden gradient");
  expect_close(head.weight->gradient, rw.grad(), 1e-5, "head gradient");
  if (norm) expect_close(head.norm->gradient, rn.grad(), 1e-5, "norm gradient");
  if (bias) expect_close(head.bias->gradient, rb.grad(), 1e-5, "bias gradient");

  at::NoGradGuard no_grad;
  const CrossEntropy again = linear_log_prob_loss(hidden, head, targets, loss);
  EXPECT_TRUE(at::equal(again.log_probs, result.log_probs));
  EXPECT_TRUE(at::equal(again.loss, result.loss.detach()));
}

INSTANTIATE_TEST_SUITE_P(Sizes, LinearLogProbLoss,
                         testing::Values(LogProbLossCase{"OneChunk", 101, 19, true, false}, LogProbLossCase{"WithoutNorm", 101, 19, false, true},
                                         LogProbLossCase{"NoTargets", 101, 0, true, false}, LogProbLossCase{"KeptInChunks", kWide, 35, true, false},
                                         LogProbLossCase{"ComputedAgain", 101, 19, true, true, 19 * 101 - 1},
                                         LogProbLossCase{"ComputedAgainInChunks", kWide, 35, true, true, 0}),
                         [](const auto& info) { return info.param.name; });

TEST(AdamW, EqualsTorchOverSeveralSteps) {
  at::Tensor weight = random_tensor({1003}, 1), reference = weight.clone().requires_grad_(true);
  at::Tensor m = at::zeros({1003}), v = at::zeros({1003});
  torch::optim::AdamW optimizer({reference}, torch::optim::AdamWOptions(1e-2).betas({0.9, 0.95}).eps(1e-6).weight_decay(0.1));
  for (int64_t step = 1; step <= 5; ++step) {
    const at::Tensor gradient = random_tensor({1003}, 10 + step);
    reference.mutable_grad() = gradient * 0.5;
    optimizer.step();
    adamw({{weight, gradient, {m, v, {}}, 0.1}}, {.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-6, .step = step, .gradient_scale = 0.5});
  }
  expect_close(weight, reference.detach(), 1e-6, "weights");
}

/// Gradients of mean square 1 under moments that begin at 0.
struct Narrow {
  at::Tensor weight, m, v;
  explicit Narrow(int64_t count) : weight(at::zeros({count})), m(at::zeros({count}, at::kBFloat16)), v(at::zeros({count}, at::kBFloat16)) {}
  void step(int64_t step, const at::Tensor& gradient, double beta2, bool stochastic, int64_t begin = 0, int64_t end = -1) {
    const int64_t count = (end < 0 ? weight.numel() : end) - begin;
    AdamWUpdate update{weight.narrow(0, begin, count), gradient.narrow(0, begin, count), {m.narrow(0, begin, count), v.narrow(0, begin, count), {}}};
    if (stochastic) update.moments.noise = {static_cast<uint64_t>(step) * 12345, begin};
    adamw({update}, {.lr = 1e-2, .beta1 = 0.9, .beta2 = beta2, .step = step});
  }
};

TEST(AdamW, MomentsInBfloat16AreThoseOfFloat32Rounded) {
  Narrow narrow(1003);
  at::Tensor weight = at::zeros({1003}), m = at::zeros({1003}), v = at::zeros({1003});
  for (int64_t step = 1; step <= 3; ++step) {
    const at::Tensor gradient = random_tensor({1003}, 20 + step);
    m.copy_(narrow.m);  // float32 arithmetic on what was kept
    v.copy_(narrow.v);
    adamw({{weight, gradient, {m, v, {}}}}, {.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .step = step});
    narrow.step(step, gradient, 0.95, false);
    EXPECT_TRUE(narrow.m.equal(m.to(at::kBFloat16)));
    EXPECT_TRUE(narrow.v.equal(v.to(at::kBFloat16)));
    expect_close(narrow.weight, weight, 1e-7, "weights");
  }
}

TEST(AdamW, StochasticRoundingFollowsWhatTheNearestLoses) {
  constexpr int64_t kCount = 20000, kSteps = 3000;  // of beta2 = 0.9995 a step moves a second moment by less than half a unit in the last place
  Narrow nearest(kCount), stochastic(kCount);
  const at::Tensor large = at::ones({kCount}), small = at::full({kCount}, 0.5f);
  for (int64_t step = 1; step <= kSteps; ++step)
    for (Narrow* each : {&nearest, &stochastic}) each->step(step, step == 1 ? large * 40 : small, 0.9995, each == &stochastic);
  const double keep = std::pow(0.9995, kSteps - 1), expected = keep * (1 - 0.9995) * 1600 + (1 - keep) * 0.25;
  EXPECT_NEAR(stochastic.v.to(at::kFloat).mean().item<double>(), expected, 0.01 * expected);
  EXPECT_GT(nearest.v.to(at::kFloat).mean().item<double>(), 1.5 * expected) << "to the nearest it stays where it was";
}

TEST(AdamW, NoiseBelongsToTheElement) {
  Narrow whole(1003), parts(1003);
  const at::Tensor gradient = random_tensor({1003}, 5);
  whole.step(1, gradient, 0.95, true);
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 17}, {17, 600}, {600, 1003}}) parts.step(1, gradient, 0.95, true, begin, end);
  EXPECT_TRUE(whole.m.equal(parts.m));
  EXPECT_TRUE(whole.v.equal(parts.v));
  Narrow other(1003);
  other.step(1, gradient, 0.95, false);
  EXPECT_FALSE(whole.m.equal(other.m));
}

TEST(SumOfSquares, DoesNotDependOnTheNumberOfThreads) {
  const at::Tensor x = random_tensor({1 << 20}, 1);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const double one = sum_of_squares({x}).item<double>();
  at::set_num_threads(3);
  EXPECT_EQ(sum_of_squares({x}).item<double>(), one);
  at::set_num_threads(threads);
  EXPECT_NEAR(one, x.to(at::kDouble).pow(2).sum().item<double>(), 1e-6 * one);
}

}  // namespace
}  // namespace tessera::kernels
