#include "trainer/loss_terms.h"

#include <ATen/ops/zeros.h>

#include "model/mtp.h"

namespace tessera::trainer {

StepCounts count_step(const data::StepBatch& batch, int64_t mtp_depth, parallel::Communicator& world, int64_t readers) {
  at::Tensor sums = at::zeros({3 + mtp_depth}, at::kLong);
  int64_t* sum = sums.data_ptr<int64_t>();
  sum[0] = batch.num_targets;
  sum[1] = batch.num_tokens;
  for (const data::MicroBatch& micro : batch.micro_batches) {
    sum[2] += static_cast<int64_t>(micro.segments.size());
    if (mtp_depth == 0) continue;
    const auto counts = model::count_mtp_targets(micro.target_sources, micro.segments, mtp_depth);
    for (size_t k = 0; k < counts.size(); ++k) sum[3 + k] += counts[k];
  }
  // Not over dp, where the parameters of the last step may still be on their way.
  world.all_reduce(sums, parallel::ReduceOp::kSum, "the step's counts")->wait();
  for (int64_t i = 0; i < sums.numel(); ++i) sum[i] /= readers;
  return {sum[0], sum[1], sum[2], {sum + 3, sum + 3 + mtp_depth}};
}

LossTerms loss_terms(const StepCounts& counts, const MoeTrainingConfig& moe, const MtpTrainingConfig& mtp, bool has_experts) {
  const auto share = [](double weight, int64_t count) { return count > 0 ? weight / static_cast<double>(count) : 0.0; };
  LossTerms terms;
  terms.target_weight = static_cast<float>(share(1.0, counts.targets));
  for (int64_t targets : counts.mtp_targets)
    terms.mtp_weights.push_back(share(mtp.loss_weight / static_cast<double>(counts.mtp_targets.size()), targets));
  terms.routing.statistics = has_experts;
  terms.routing.balance_weight = share(moe.sequence_balance_loss, counts.documents);
  terms.routing.z_weight = share(moe.z_loss, counts.tokens);
  return terms;
}

}  // namespace tessera::trainer
