// The terms of a step's loss and their denominators, which are global: over all ranks and micro-batches of the step, and
// known before the first forward pass, so that neither micro-batch size nor number of ranks changes the sum.
#pragma once

#include <cstdint>
#include <vector>

#include "data/batch.h"
#include "moe/router.h"
#include "parallel/communicator.h"
#include "trainer/config.h"
#include "trainer/objective.h"

namespace tessera::trainer {

struct StepCounts {
  int64_t targets = 0, tokens = 0, documents = 0;
  std::vector<int64_t> mtp_targets;  // of each MTP module
};

/// Counts this rank's step and sums over all ranks, of which `readers` read the same rows each. Collective over `world`.
/// `mtp_depth`: number of MTP modules that are trained.
[[nodiscard]] StepCounts count_step(const data::StepBatch& batch, int64_t mtp_depth, parallel::Communicator& world, int64_t readers);

/// Weights that carry every factor.
struct LossTerms {
  float target_weight = 0;          // 1 / targets
  std::vector<double> mtp_weights;  // of module k: loss_weight / modules / its targets
  moe::RoutingTerms routing;        // balance: per document and layer; z: per token and layer
  Objective* objective = nullptr;   // instead of the mean cross-entropy
};
[[nodiscard]] LossTerms loss_terms(const StepCounts& counts, const MoeTrainingConfig& moe, const MtpTrainingConfig& mtp, bool has_experts);

/// One rank's part of the step's loss.
struct StepLoss {
  double cross_entropy = 0, mtp = 0;
};

}  // namespace tessera::trainer
