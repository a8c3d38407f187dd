#include "trainer/model_copy.h"

#include <ATen/core/grad_mode.h>

#include <set>

#include "core/error.h"
#include "model/lora.h"

namespace tessera::trainer {

ModelCopy::ModelCopy(Stages& live, const TrainerConfig& config, parallel::Communicator& world)
    : live_(live), world_(world.duplicate("generation")), mesh_(*world_, config.parallel),
      stages_(std::make_unique<Stages>(live.config(), mesh_, config.parallel, false)) {
  if (config.model.lora)
    for (auto* model : stages_->models()) (void)model::add_adapters(*model, *config.model.lora, config.seed);
  std::set<const kernels::Parameter*> seen;
  for (const bool adapters : {false, true}) {
    if (adapters && !config.model.lora) continue;
    const auto from = live.weights(adapters), to = stages_->weights(adapters);
    TESSERA_CHECK(from.size() == to.size());
    for (size_t i = 0; i < from.size(); ++i) {
      TESSERA_CHECK(from[i].name == to[i].name, from[i].name);
      kernels::Parameter &parameter = *from[i].parameter, &copy = *to[i].parameter;
      if (!seen.insert(&parameter).second) continue;
      if (parameter.trainable() || from[i].buffer) {
        changing_.emplace_back(&parameter, &copy);
      } else {
        copy.value = parameter.value;
        copy.codes = parameter.codes;
      }
    }
  }
}

void ModelCopy::refresh() {
  at::NoGradGuard no_grad;
  for (auto* flat : live_.buckets()) flat->finish_gather();
  for (const auto& [from, to] : changing_) to->value.copy_(from->value);
}

}  // namespace tessera::trainer
