// The output head and its cross-entropy in one: the final norm and the head run only where a token is a target, over
// chunks of targets, so that the logits [T, V] never exist; gradients are made in the forward pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "kernels/linear.h"

namespace tessera::kernels {

struct Targets {
  std::vector<int64_t> sources;  // [N] row of `hidden` that predicts the target
  std::vector<int32_t> ids;      // [N] target ids
  std::vector<float> weights;    // [N] weight of -log p in the loss, its global denominator included
};

struct CrossEntropy {
  at::Tensor loss;       // scalar: sum of weights * -log p; back-propagate it with gradient 1
  at::Tensor log_probs;  // [N] log p(target), no gradient
};

/// hidden: [T, D]; `head`: the head's weight [V, D] with the final norm as its prologue. Gradients are computed when
/// grad mode is on.
CrossEntropy linear_cross_entropy(const at::Tensor& hidden, const LinearSpec& head, const Targets& targets);

/// A loss that is any function of the targets' log-probabilities.
struct LogProbLoss {
  double temperature = 1;  // of the logits
  /// log_probs and entropies (of the whole distribution), [N] each: writes minus the derivative of the loss by each log_prob
  /// into weights [N], and returns the loss. Called once.
  std::function<double(const float* log_probs, const float* entropies, float* weights)> weigh;
  int64_t kept_logits = int64_t{64} << 20;  // until `weigh` has been called; where there are more, all are computed again
};

/// The same for such a loss; `targets.weights` are not read.
CrossEntropy linear_log_prob_loss(const at::Tensor& hidden, const LinearSpec& head, const Targets& targets, const LogProbLoss& loss);

}  // namespace tessera::kernels
