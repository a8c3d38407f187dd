#include "kernels/cross_entropy.h"

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

TEST(AdamW, EqualsTorchOverSeveralSteps) {
  at::Tensor weight = random_tensor({1003}, 1), reference = weight.clone().requires_grad_(true);
  at::Tensor m = at::zeros({1003}), v = at::zeros({1003});
  torch::optim::AdamW optimizer({reference}, torch::optim::AdamWOptions(1e-2).betas({0.9, 0.95}).eps(1e-6).weight_decay(0.1));
  for (int64_t step = 1; step <= 5; ++step) {
    const at::Tensor gradient = random_tensor({1003}, 10 + step);
    reference.mutable_grad() = gradient * 0.5;
    optimizer.step();
    adamw(weight.data_ptr<float>(), gradient.data_ptr<float>(), m.data_ptr<float>(), v.data_ptr<float>(), 1003,
          {.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-6, .weight_decay = 0.1, .step = step, .gradient_scale = 0.5});
  }
  expect_close(weight, reference.detach(), 1e-6, "weights");
}

TEST(SumOfSquares, DoesNotDependOnTheNumberOfThreads) {
  const at::Tensor x = random_tensor({1 << 20}, 1);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const double one = sum_of_squares(x.data_ptr<float>(), x.numel());
  at::set_num_threads(3);
  EXPECT_EQ(sum_of_squares(x.data_ptr<float>(), x.numel()), one);
  at::set_num_threads(threads);
  EXPECT_NEAR(one, x.to(at::kDouble).pow(2).sum().item<double>(), 1e-6 * one);
}

}  // namespace
}  // namespace tessera::kernels
