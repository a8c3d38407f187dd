// Proves a pipeline schedule, whoever made it, before anything runs, and times it.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/pipeline_schedule.h"

namespace tessera::parallel {

/// Throws Error naming the rank and the action when the schedule
/// - lacks an action or has one twice, or on a rank that does not hold the stage;
/// - has an action before one on the same rank that it needs (a backward before its forward, ...);
/// - cannot be carried out: some ranks would wait for each other for ever. Sends complete only when their receiver waits for
///   them (rendezvous), and a rank does not begin a second send to a peer along a stage boundary before the first is done.
void check(const PipelineSchedule& schedule);

/// How many forwards of each rank are kept for their backward at most, counted in stages.
[[nodiscard]] std::vector<int32_t> peak_activations(const PipelineSchedule& schedule);

/// Seconds (or any unit) of one action; the same for all stages unless `stage_scale` gives a factor each.
struct ActionCosts {
  double forward = 1, backward_input = 1, backward_weight = 1;
  double overlapped_saving = 0;  // of a forward and a backward done as a pair
  double transfer = 0;           // between ranks
  std::vector<double> stage_scale = {};
};

struct Timeline {
  std::vector<std::vector<double>> begin, end;  // [ranks][steps]
  double makespan = 0;
  /// Longest time from a rank's first action to its last, less its work: what a rank waits at most.
  double bubble = 0;
};

/// Runs the schedule on a clock, every rank doing its steps as soon as their inputs are there. The schedule must pass check().
[[nodiscard]] Timeline simulate(const PipelineSchedule& schedule, const ActionCosts& costs);

}  // namespace tessera::parallel
