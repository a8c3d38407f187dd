// Which ranks hold copies of the same parameters, and so sum their gradients, share the optimizer's state and write one copy
// of it: all dp ranks of the pipeline ranks that hold a stage (one, or two under DualPipe), for experts those of them that
// hold the same experts, for an embedding that both ends use those of both.
#pragma once

#include <memory>
#include <vector>

#include "parallel/mesh.h"
#include "parallel/pipeline_schedule.h"

namespace tessera::parallel {

class ReplicaGroups final {
 public:
  /// `mesh` must outlive the groups. Collective over the world.
  ReplicaGroups(const Mesh& mesh, const Placement& placement);

  /// Of this rank's stages.
  [[nodiscard]] Communicator& stage() const { return *stage_; }
  [[nodiscard]] Communicator& experts() const { return *experts_; }
  /// Of the first and the last stage together; for ranks that hold one of them.
  [[nodiscard]] Communicator& ends() const { return *ends_; }

 private:
  std::vector<std::unique_ptr<Communicator>> owned_;
  Communicator *stage_, *experts_, *ends_;
};

}  // namespace tessera::parallel
