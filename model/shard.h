// The part of a model that one rank holds: a run of layers (a pipeline stage) and, of each layer, some of the experts. With
// the defaults it is the whole model.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/parameter.h"
#include "model/config.h"
#include "moe/dispatcher.h"
#include "parallel/mesh.h"

namespace tessera::model {

struct Shard {
  int64_t begin_layer = 0, end_layer = -1;  // [begin, end); -1: to the last
  bool first = true, last = true;           // the stage that has the embedding; final norm, head and MTP modules
  /// Both ends hold the embedding: the last for a tied head or for MTP modules.
  bool embedding_at_both_ends = false;
  parallel::ExpertAxis ep = {};             // shares out the experts; without ranks all are here
  kernels::GradientQueue* queue = nullptr;  // of the stage: weight gradients for the time that exchanges of tokens take
  std::vector<moe::Passage>* passages = nullptr;  // receives those of the experts' tokens, if given
  kernels::ParameterPtr embedding = {};     // of the first stage, where that lies on this rank too

  [[nodiscard]] bool has_embedding() const { return first || (last && embedding_at_both_ends); }
  [[nodiscard]] bool shares_experts() const { return ep.shared_out(); }
};

/// Cuts the model into `stages` runs of layers, none empty, so that the most expensive (head and MTP modules counted with
/// the last) costs as little as possible. `mtp`: whether MTP modules are trained. Throws ConfigError when there are more
/// stages than layers.
[[nodiscard]] std::vector<Shard> plan_stages(const ModelConfig& config, int64_t stages, bool mtp);

}  // namespace tessera::model
