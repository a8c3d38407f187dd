// A second copy of this rank's parts of the model, for a thread that computes with the weights of some time while training goes on with
// the live ones. It lies as the live model does, on communicators of its own. Weights that nothing changes are shared, not copied.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "trainer/config.h"
#include "trainer/stages.h"

namespace tessera::trainer {

class ModelCopy final {
 public:
  /// Of `live`, which has been made trainable and must outlive it. Collective over `world`, which the copy's communicators come from.
  /// Before refresh() its weights are undefined.
  ModelCopy(Stages& live, const TrainerConfig& config, parallel::Communicator& world);

  /// Takes the weights of now.
  void refresh();
  [[nodiscard]] const Stages& stages() const { return *stages_; }
  [[nodiscard]] const parallel::Mesh& mesh() const { return mesh_; }

 private:
  Stages& live_;
  std::unique_ptr<parallel::Communicator> world_;
  parallel::Mesh mesh_;
  std::unique_ptr<Stages> stages_;
  std::vector<std::pair<const kernels::Parameter*, kernels::Parameter*>> changing_;  // live, copy
};

}  // namespace tessera::trainer
