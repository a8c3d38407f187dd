// Pipeline schedules as data: which rank holds which stage, and in which order each rank works. The checker proves a
// schedule, the simulator times it, the runtime carries it out; none of them knows how it was made.
//
// Legend: p ranks, s stages, m micro-batches, v stages a rank.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace tessera::parallel {

enum class ActionKind : uint8_t {
  kForward,
  kBackward,        // gradients of input and weights at once
  kBackwardInput,   // of the input only; the weights' follow
  kBackwardWeight,
};

struct Action {
  ActionKind kind = ActionKind::kForward;
  int32_t stage = 0;
  int32_t microbatch = 0;
  friend bool operator==(const Action&, const Action&) = default;
};

/// What a rank does at a time: one action, or a forward and a backward whose computation and communication overlap.
struct Step {
  Action first;
  std::optional<Action> second;
  friend bool operator==(const Step&, const Step&) = default;
};

/// Where stages lie: a route is the ranks that a micro-batch visits, stage by stage. Bidirectional schedules have two
/// routes, so that a stage lies on two ranks.
struct Placement {
  std::vector<std::vector<int32_t>> routes;  // [routes][stages] -> rank
  std::vector<int32_t> route_of;             // [micro-batches]
  [[nodiscard]] int32_t rank(int32_t stage, int32_t microbatch) const {
    return routes[static_cast<size_t>(route_of[static_cast<size_t>(microbatch)])][static_cast<size_t>(stage)];
  }
  /// Stages that lie on `rank`, in order.
  [[nodiscard]] std::vector<int32_t> stages_of(int32_t rank) const;
};

struct PipelineSchedule {
  std::string name;
  int32_t num_ranks = 1, num_stages = 1, num_microbatches = 1;
  Placement placement;
  std::vector<std::vector<Step>> ranks;  // [p]
};

/// All forwards, then all backwards (Huang et al. 2019).
PipelineSchedule make_gpipe(int32_t ranks, int32_t microbatches);
/// One forward, one backward (Narayanan et al. 2021a, PipeDream-flush): at most p micro-batches in flight.
PipelineSchedule make_1f1b(int32_t ranks, int32_t microbatches);
/// v stages a rank, stage i on rank i mod p (Narayanan et al. 2021b); m a multiple of p.
PipelineSchedule make_interleaved_1f1b(int32_t ranks, int32_t microbatches, int32_t stages_per_rank);
/// 1F1B whose weight gradients wait for bubbles (Qi et al. 2024, ZB-H1): memory of 1F1B.
PipelineSchedule make_zero_bubble_h1(int32_t ranks, int32_t microbatches);
/// Two stages a rank in a V, stages r and 2p - 1 - r (Qi et al. 2024, ZB-V); m >= 2p.
PipelineSchedule make_zero_bubble_v(int32_t ranks, int32_t microbatches);
/// Micro-batches from both ends (DeepSeek-V3, section 3.2.1): two copies of each stage; p and m even, m >= 2p.
PipelineSchedule make_dualpipe(int32_t ranks, int32_t microbatches);
/// DualPipe's order on half the ranks, two stages a rank in a V: one copy of each stage; m >= 2p.
PipelineSchedule make_dualpipe_v(int32_t ranks, int32_t microbatches);

/// By its name in a recipe: gpipe, 1f1b, interleaved, zb_h1, zb_v, dualpipe, dualpipe_v. Throws ConfigError for an unknown
/// name and for numbers outside the schedule's domain, saying what to set.
PipelineSchedule make_pipeline_schedule(const std::string& name, int32_t ranks, int32_t microbatches, int32_t stages_per_rank);

/// The forwards of `microbatches` alone, on the stages as `like` places them: evaluation.
PipelineSchedule make_forward_only(const PipelineSchedule& like, int32_t microbatches);

/// The least number of micro-batches, and what their number must be a multiple of, on p ranks.
struct MicrobatchRule {
  int32_t at_least = 1, multiple_of = 1;
};
MicrobatchRule microbatch_rule(const std::string& name, int32_t ranks);

/// "F3.1" is the forward of micro-batch 3 in stage 1; B, I, W are the backward, of input and of weights.
[[nodiscard]] std::string to_string(const Action& action);

}  // namespace tessera::parallel
