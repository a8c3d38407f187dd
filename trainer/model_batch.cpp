#include "trainer/model_batch.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>

namespace tessera::trainer {

namespace {

std::unique_ptr<const moe::LayerChoices> to_tensors(const ExpertChoices& choices, int64_t tokens) {
  if (choices.empty()) return nullptr;
  auto tensors = std::make_unique<moe::LayerChoices>();
  for (const auto& [layer, rows] : choices) {
    at::Tensor experts = at::empty({tokens, static_cast<int64_t>(rows.size()) / tokens}, at::kInt);
    std::copy(rows.begin(), rows.end(), experts.data_ptr<int32_t>());
    tensors->emplace(layer, std::move(experts));
  }
  return tensors;
}

}  // namespace

ModelBatch to_model_batch(const data::MicroBatch& micro, float weight) {
  const auto view = [](const std::vector<int32_t>& values) {
    return at::from_blob(const_cast<int32_t*>(values.data()), {static_cast<int64_t>(values.size())}, at::kInt);
  };
  return {view(micro.tokens), view(micro.positions),
          {micro.target_sources, micro.targets, std::vector<float>(micro.targets.size(), weight)},
          to_tensors(micro.experts, static_cast<int64_t>(micro.tokens.size()))};
}

}  // namespace tessera::trainer
