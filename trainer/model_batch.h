// A micro-batch as the model wants it.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "data/batch.h"
#include "kernels/cross_entropy.h"
#include "moe/router.h"

namespace tessera::trainer {

struct ModelBatch {
  at::Tensor tokens, positions;  // [T] int32, views of the micro-batch, which must outlive them
  kernels::Targets targets;
  std::unique_ptr<const moe::LayerChoices> experts;  // null: routers choose
};

/// `weight` is the weight of every target: one over the global number of targets for the mean cross-entropy.
[[nodiscard]] ModelBatch to_model_batch(const data::MicroBatch& micro, float weight);

}  // namespace tessera::trainer
