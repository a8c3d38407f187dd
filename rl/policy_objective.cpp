#include "rl/policy_objective.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <numeric>

namespace tessera::rl {

double PolicyObjective::weigh(size_t microbatch, const float* log_probs, const float* entropies, float* weights) {
  const PolicyBatch& batch = batches_[microbatch];
  const double loss = policy_loss(config_, denominators_, batch, log_probs, weights, statistics_);
  const int64_t tokens = std::accumulate(batch.lengths.begin(), batch.lengths.end(), int64_t{0});
  for (int64_t t = 0; t < tokens; ++t) {
    statistics_.entropy += entropies[t];
    weights[t] = -weights[t];  // of -log p
  }
  return loss;
}

PolicyStatistics PolicyObjective::collect(parallel::Communicator& world) const {
  const PolicyStatistics& s = statistics_;
  at::Tensor sums = at::tensor({s.tokens, s.completions, s.entropy, s.clipped, s.kl_reference, s.kl_rollout}, at::kDouble);
  at::Tensor largest = at::tensor({s.largest_ratio}, at::kDouble);
  world.all_reduce(sums, parallel::ReduceOp::kSum, "the step's policy statistics")->wait();
  world.all_reduce(largest, parallel::ReduceOp::kMax, "the step's policy statistics")->wait();
  const double* v = sums.const_data_ptr<double>();
  return {v[0], v[1], v[2], v[3], v[4], v[5], largest.item<double>()};
}

LogProbRecorder::LogProbRecorder(double temperature, const std::vector<PolicyBatch>& batches) : temperature_(temperature) {
  for (const auto& batch : batches) log_probs_.emplace_back(batch.rollout.size(), 0.0f);
}

double LogProbRecorder::weigh(size_t microbatch, const float* log_probs, const float*, float*) {
  std::copy_n(log_probs, log_probs_[microbatch].size(), log_probs_[microbatch].begin());
  return 0;
}

std::vector<std::vector<float>> LogProbRecorder::collect(parallel::Communicator& pipeline) {
  for (auto& list : log_probs_)
    if (!list.empty() && pipeline.size() > 1)
      pipeline.all_reduce(at::from_blob(list.data(), {static_cast<int64_t>(list.size())}, at::kFloat), parallel::ReduceOp::kSum, "log-probabilities")->wait();
  return std::move(log_probs_);
}

}  // namespace tessera::rl
