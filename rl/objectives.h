// Policy objectives on log-probabilities: GRPO as in DeepSeekMath (arXiv 2402.03300, eq. 3) and as in R1 (arXiv 2501.12948, eq. 1),
// Dr. GRPO (2503.20783), DAPO (2503.14476), GSPO (2507.18071), CISPO (2506.13585). No tensors: a loss and its derivatives on arrays.
//
// Legend: r = exp(log p - old log p) of a token, A the advantage of its completion, o the completion's tokens, N the rollouts of the
// step, over all ranks.
//
//   grpo     1/N sum 1/|o| sum_t [min(r A, clip(r) A) - beta KL_t]
//   r1_grpo  1/N sum [min(R A, clip(R) A) - beta KL], R and KL of the whole completion's probability
//   dr_grpo  1/(N max_new_tokens) sum sum_t of grpo's terms
//   dapo     1/tokens sum sum_t of grpo's terms
//   gspo     1/N sum [min(s A, clip(s) A)], s = exp(mean of log r); KL as in grpo
//   cispo    1/tokens sum sum_t [sg(clip(r)) A log p], no token is dropped; KL as in dapo
//
// clip is to [1 - clip_low, 1 + clip_high]; KL_t = exp(d) - d - 1 with d = reference - log p (k3). The loss is minus these.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tessera::rl {

struct PolicyConfig {
  std::string objective = "grpo";
  double clip_low = 0.2, clip_high = 0.2;
  double kl_coefficient = 0;
  double importance_cap = 0;   // weights min(exp(old - rollout), cap) of the policy term; 0: none
  int64_t max_new_tokens = 1;  // dr_grpo's denominator
};

/// Of a whole step, over all ranks.
struct PolicyDenominators {
  int64_t rollouts = 1, tokens = 1;
};

/// Completions of one micro-batch, their tokens one after the other.
struct PolicyBatch {
  std::vector<int64_t> lengths;       // [S] tokens of each completion
  std::vector<float> advantages;      // [S]
  std::vector<float> old_log_probs;   // [N], or empty: those of now, before the first update on a rollout
  std::vector<float> reference;       // [N], or empty without KL
  std::vector<float> rollout;         // [N] as they were drawn
};

/// Sums over tokens (or completions), to be divided by the counts of all ranks.
struct PolicyStatistics {
  double tokens = 0, completions = 0;
  double entropy = 0, clipped = 0;
  double kl_reference = 0, kl_rollout = 0;  // k3
  double largest_ratio = 0;                 // of |r - 1|
};

/// log_probs: [N]. Writes the derivatives of the loss by them and returns the loss; adds to `statistics`.
double policy_loss(const PolicyConfig& config, const PolicyDenominators& denominators, const PolicyBatch& batch, const float* log_probs,
                   float* derivatives, PolicyStatistics& statistics);

}  // namespace tessera::rl
