#include "trainer/model_batch.h"

#include <ATen/ops/from_blob.h>

namespace tessera::trainer {

ModelBatch to_model_batch(const data::MicroBatch& micro, float weight) {
  const auto view = [](const std::vector<int32_t>& values) {
    return at::from_blob(const_cast<int32_t*>(values.data()), {static_cast<int64_t>(values.size())}, at::kInt);
  };
  return {view(micro.tokens), view(micro.positions),
          {micro.target_sources, micro.targets, std::vector<float>(micro.targets.size(), weight)}};
}

}  // namespace tessera::trainer
