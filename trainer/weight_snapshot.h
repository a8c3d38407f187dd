// A copy of the trained weights as they were at some time, shared out over the ranks like the optimizer's state: the reference of
// a divergence. To compute with it, it changes places with the live weights.
#pragma once

#include "trainer/owned_slices.h"
#include "trainer/stages.h"

namespace tessera::trainer {

class WeightSnapshot final {
 public:
  /// Takes the weights of now. `stages` must outlive it.
  explicit WeightSnapshot(Stages& stages);

  void refresh();
  /// Exchanges the snapshot with the live weights, on all ranks. Twice: as before. Collective.
  void swap();

  void list(const std::vector<model::NamedWeight>& weights, std::vector<checkpoint::OwnedRange>& ranges) const { owned_.list(kKind, slices_, weights, ranges); }
  void read(const std::vector<model::NamedWeight>& weights, checkpoint::CheckpointReader& reader) const { owned_.read(kKind, slices_, weights, reader); }

 private:
  static constexpr const char* kKind = "reference";  // in checkpoints

  Stages& stages_;
  OwnedSlices owned_;
  OwnedSlices::Slices slices_;
};

}  // namespace tessera::trainer
