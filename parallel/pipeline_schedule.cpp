#include "parallel/pipeline_schedule.h"

#include <algorithm>
#include <deque>

#include "core/error.h"
#include "core/text.h"

namespace tessera::parallel {

namespace {

enum class Shape { kLine, kLoop, kV, kTwoWays };

Placement place(Shape shape, int32_t ranks, int32_t stages, int32_t microbatches) {
  Placement placement;
  placement.route_of.assign(static_cast<size_t>(microbatches), 0);
  std::vector<int32_t> route;
  for (int32_t s = 0; s < stages; ++s) {
    const int32_t turn = s / ranks, position = s % ranks;
    route.push_back(shape == Shape::kV && turn % 2 == 1 ? ranks - 1 - position : position);
  }
  placement.routes.push_back(route);
  if (shape == Shape::kTwoWays) {
    std::reverse(route.begin(), route.end());
    placement.routes.push_back(route);
    std::fill(placement.route_of.begin() + microbatches / 2, placement.route_of.end(), 1);
  }
  return placement;
}

PipelineSchedule make_empty(std::string name, Shape shape, int32_t ranks, int32_t stages, int32_t microbatches) {
  PipelineSchedule schedule{std::move(name), ranks, stages, microbatches, place(shape, ranks, stages, microbatches), {}};
  schedule.ranks.resize(static_cast<size_t>(ranks));
  return schedule;
}

/// Writes one rank's list. A lane is a sequence of micro-batches through one of the rank's stages, each counted by kind.
class RankWriter final {
 public:
  struct Lane {
    int32_t stage = 0, first = 0, count = 0;  // micro-batches [first, first + count)
    int32_t forwards = 0, backwards = 0;
  };

  RankWriter(std::vector<Step>& steps, std::vector<Lane> lanes) : steps_(steps), lanes_(std::move(lanes)) {}

  void forward(size_t lane) { push(next_forward(lane)); }
  /// A whole backward, or with `split` that of the input, whose weights' part then waits in a queue.
  void backward(size_t lane, bool split = false) { push(next_backward(lane, split)); }
  void weight() {
    TESSERA_CHECK(!waiting_.empty(), "no weight gradient waits");
    push(waiting_.front());
    waiting_.pop_front();
  }
  void weights_left() {
    while (!waiting_.empty()) weight();
  }
  void pair(size_t forward_lane, size_t backward_lane) {
    const Action forward = next_forward(forward_lane);
    steps_.push_back({forward, next_backward(backward_lane, false)});
  }
  [[nodiscard]] bool forwards_left(size_t lane) const { return lanes_[lane].forwards < lanes_[lane].count; }
  [[nodiscard]] const Lane& lane(size_t index) const { return lanes_[index]; }

 private:
  void push(const Action& action) { steps_.push_back({action, std::nullopt}); }
  Action next_forward(size_t lane) {
    Lane& l = lanes_[lane];
    return {ActionKind::kForward, l.stage, l.first + l.forwards++};
  }
  Action next_backward(size_t lane, bool split) {
    Lane& l = lanes_[lane];
    const int32_t microbatch = l.first + l.backwards++;
    if (split) waiting_.push_back({ActionKind::kBackwardWeight, l.stage, microbatch});
    return {split ? ActionKind::kBackwardInput : ActionKind::kBackward, l.stage, microbatch};
  }

  std::vector<Step>& steps_;
  std::vector<Lane> lanes_;
  std::deque<Action> waiting_;
};

/// A schedule on a V: body(writer, rank) writes each rank's list, lane 0 on the way down, lane 1 on the way back.
template <typename Body>
PipelineSchedule make_on_v(const std::string& name, int32_t ranks, int32_t microbatches, const Body& body) {
  PipelineSchedule schedule = make_empty(name, Shape::kV, ranks, 2 * ranks, microbatches);
  for (int32_t r = 0; r < ranks; ++r) {
    RankWriter rank(schedule.ranks[static_cast<size_t>(r)], {{r, 0, microbatches}, {2 * ranks - 1 - r, 0, microbatches}});
    body(rank, r);
  }
  return schedule;
}

/// DualPipe's eight phases on one rank, `h` places from its end of `half` ranks; lane 0 begins here, lane 1 comes back.
void write_dual(RankWriter& rank, int32_t half, int32_t h, int32_t microbatches_a_lane) {
  const int32_t inner = half - h - 1;
  const auto repeat = [](int32_t times, const auto& body) {
    for (int32_t i = 0; i < times; ++i) body(i);
  };
  repeat(2 * inner, [&](int32_t) { rank.forward(0); });
  repeat(h + 1, [&](int32_t) { rank.forward(0), rank.forward(1); });
  repeat(inner, [&](int32_t) { rank.backward(1, true), rank.weight(), rank.forward(1); });
  repeat(microbatches_a_lane - 2 * half + h + 1, [&](int32_t i) {
    if (i == 0 && inner == 0) {  // nothing has arrived yet that could overlap
      rank.forward(0), rank.backward(1);
    } else {
      rank.pair(0, 1);
    }
    rank.pair(1, 0);
  });
  repeat(inner, [&](int32_t) { rank.backward(1), rank.pair(1, 0); });
  repeat(h + 1, [&](int32_t i) {
    const int32_t turn = (h + 1) / 2;
    rank.backward(1, i > turn || (i == turn && h % 2 == 1));
    rank.backward(0, i >= turn);
  });
  repeat(inner, [&](int32_t) { rank.weight(), rank.backward(0, true); });
  repeat(h + 1, [&](int32_t) { rank.weight(); });
}

void require(bool holds, const std::string& name, const std::string& what) {
  if (!holds) throw ConfigError("parallel.pipeline_schedule = " + name + ": " + what);
}

void check_microbatches(const std::string& name, int32_t ranks, int32_t microbatches) {
  require(ranks >= 1, name, "parallel.pp must be at least 1");
  const MicrobatchRule rule = microbatch_rule(name, ranks);
  require(microbatches >= rule.at_least && microbatches % rule.multiple_of == 0, name,
          detail::concat(microbatches, " micro-batches on ", ranks, " ranks; their number must be at least ", rule.at_least, " and a multiple of ",
                         rule.multiple_of));
}

}  // namespace

std::vector<int32_t> Placement::stages_of(int32_t rank) const {
  std::vector<int32_t> stages;
  for (size_t s = 0; s < routes.front().size(); ++s)
    if (std::any_of(routes.begin(), routes.end(), [&](const auto& route) { return route[s] == rank; })) stages.push_back(static_cast<int32_t>(s));
  return stages;
}

MicrobatchRule microbatch_rule(const std::string& name, int32_t ranks) {
  if (name == "interleaved") return {ranks, ranks};
  if (name == "zb_v" || name == "dualpipe_v") return {2 * ranks, 1};
  if (name == "dualpipe") return {2 * ranks, 2};
  return {};
}

PipelineSchedule make_gpipe(int32_t ranks, int32_t microbatches) {
  check_microbatches("gpipe", ranks, microbatches);
  PipelineSchedule schedule = make_empty("gpipe", Shape::kLine, ranks, ranks, microbatches);
  for (int32_t r = 0; r < ranks; ++r) {
    RankWriter rank(schedule.ranks[static_cast<size_t>(r)], {{r, 0, microbatches}});
    for (int32_t i = 0; i < microbatches; ++i) rank.forward(0);
    for (int32_t i = 0; i < microbatches; ++i) rank.backward(0);
  }
  return schedule;
}

namespace {

/// 1F1B; with `split` rank r keeps r weight gradients waiting, which fills the bubbles at the end.
PipelineSchedule make_one_forward_one_backward(const std::string& name, int32_t ranks, int32_t microbatches, bool split) {
  check_microbatches(name, ranks, microbatches);
  PipelineSchedule schedule = make_empty(name, Shape::kLine, ranks, ranks, microbatches);
  for (int32_t r = 0; r < ranks; ++r) {
    RankWriter rank(schedule.ranks[static_cast<size_t>(r)], {{r, 0, microbatches}});
    const int32_t warmup = std::min(ranks - 1 - r, microbatches);
    for (int32_t i = 0; i < warmup; ++i) rank.forward(0);
    for (int32_t i = 0; i < microbatches; ++i) {
      if (rank.forwards_left(0)) rank.forward(0);
      rank.backward(0, split);
      if (split && i >= r) rank.weight();
    }
    rank.weights_left();
  }
  return schedule;
}

}  // namespace

PipelineSchedule make_1f1b(int32_t ranks, int32_t microbatches) { return make_one_forward_one_backward("1f1b", ranks, microbatches, false); }

PipelineSchedule make_zero_bubble_h1(int32_t ranks, int32_t microbatches) {
  return make_one_forward_one_backward("zb_h1", ranks, microbatches, true);
}

PipelineSchedule make_interleaved_1f1b(int32_t ranks, int32_t microbatches, int32_t stages_per_rank) {
  check_microbatches("interleaved", ranks, microbatches);
  require(stages_per_rank >= 1, "interleaved", "stages per rank must be at least 1");
  const int32_t v = stages_per_rank, total = microbatches * v;
  PipelineSchedule schedule = make_empty("interleaved", Shape::kLoop, ranks, ranks * v, microbatches);
  // The k-th action of a rank: p micro-batches through each of its stages in turn, then the next p.
  const auto nth = [&](ActionKind kind, int32_t r, int32_t k) {
    const int32_t in_group = k % (ranks * v), turn = in_group / ranks;
    const int32_t chunk = kind == ActionKind::kForward ? turn : v - 1 - turn;
    return Step{{kind, chunk * ranks + r, k / (ranks * v) * ranks + in_group % ranks}, std::nullopt};
  };
  for (int32_t r = 0; r < ranks; ++r) {
    auto& steps = schedule.ranks[static_cast<size_t>(r)];
    const int32_t warmup = std::min(total, (ranks - 1 - r) * (v == 1 ? 1 : 2) + (v - 1) * ranks);
    for (int32_t k = 0; k < warmup; ++k) steps.push_back(nth(ActionKind::kForward, r, k));
    for (int32_t k = 0; k < total; ++k) {
      if (warmup + k < total) steps.push_back(nth(ActionKind::kForward, r, warmup + k));
      steps.push_back(nth(ActionKind::kBackward, r, k));
    }
  }
  return schedule;
}

PipelineSchedule make_zero_bubble_v(int32_t ranks, int32_t microbatches) {
  check_microbatches("zb_v", ranks, microbatches);
  return make_on_v("zb_v", ranks, microbatches, [&](RankWriter& rank, int32_t r) {
    const auto backward_and_weight = [&](size_t lane) { rank.backward(lane, true), rank.weight(); };
    for (int32_t i = 0; i < 2 * (ranks - r) - 1; ++i) rank.forward(0);
    for (int32_t i = 0; i < r; ++i) rank.forward(1), rank.forward(0);
    for (int32_t i = 0; i < ranks - r; ++i) rank.forward(1), backward_and_weight(1);
    while (rank.forwards_left(1)) {
      if (rank.forwards_left(0)) rank.forward(0);
      backward_and_weight(0);
      rank.forward(1);
      backward_and_weight(1);
    }
    for (int32_t i = 0; i < r; ++i) rank.backward(0, true), rank.backward(1, true);
    for (int32_t i = 0; i < ranks - r; ++i) rank.backward(0, true), rank.weight();
    rank.weights_left();
  });
}

PipelineSchedule make_dualpipe(int32_t ranks, int32_t microbatches) {
  require(ranks % 2 == 0, "dualpipe", detail::concat("parallel.pp = ", ranks, " must be even"));
  check_microbatches("dualpipe", ranks, microbatches);
  PipelineSchedule schedule = make_empty("dualpipe", Shape::kTwoWays, ranks, ranks, microbatches);
  const int32_t each = microbatches / 2;
  for (int32_t r = 0; r < ranks; ++r) {
    const RankWriter::Lane down{r, 0, each}, up{ranks - 1 - r, each, each};
    const bool first_half = r < ranks / 2;
    RankWriter rank(schedule.ranks[static_cast<size_t>(r)], first_half ? std::vector{down, up} : std::vector{up, down});
    write_dual(rank, ranks / 2, std::min(r, ranks - 1 - r), each);
  }
  return schedule;
}

PipelineSchedule make_dualpipe_v(int32_t ranks, int32_t microbatches) {
  check_microbatches("dualpipe_v", ranks, microbatches);
  return make_on_v("dualpipe_v", ranks, microbatches, [&](RankWriter& rank, int32_t r) { write_dual(rank, ranks, r, microbatches); });
}

PipelineSchedule make_pipeline_schedule(const std::string& name, int32_t ranks, int32_t microbatches, int32_t stages_per_rank) {
  if (name == "gpipe") return make_gpipe(ranks, microbatches);
  if (name == "1f1b") return make_1f1b(ranks, microbatches);
  if (name == "interleaved") return make_interleaved_1f1b(ranks, microbatches, stages_per_rank);
  if (name == "zb_h1") return make_zero_bubble_h1(ranks, microbatches);
  if (name == "zb_v") return make_zero_bubble_v(ranks, microbatches);
  if (name == "dualpipe") return make_dualpipe(ranks, microbatches);
  if (name == "dualpipe_v") return make_dualpipe_v(ranks, microbatches);
  const std::vector<std::string> names = {"gpipe", "1f1b", "interleaved", "zb_h1", "zb_v", "dualpipe", "dualpipe_v"};
  throw ConfigError("parallel.pipeline_schedule = " + name + " is unknown; known are " + join(names));
}

PipelineSchedule make_forward_only(const PipelineSchedule& like, int32_t microbatches) {
  PipelineSchedule schedule{.name = "forward only", .num_ranks = like.num_ranks, .num_stages = like.num_stages,
                            .num_microbatches = microbatches, .placement = {{like.placement.routes.front()}, {}}, .ranks = {}};
  schedule.placement.route_of.assign(static_cast<size_t>(microbatches), 0);
  schedule.ranks.resize(static_cast<size_t>(like.num_ranks));
  for (int32_t m = 0; m < microbatches; ++m)
    for (int32_t s = 0; s < like.num_stages; ++s)
      schedule.ranks[static_cast<size_t>(schedule.placement.rank(s, m))].push_back({{ActionKind::kForward, s, m}, std::nullopt});
  return schedule;
}

std::string to_string(const Action& action) {
  constexpr const char* kLetters = "FBIW";
  return detail::concat(kLetters[static_cast<size_t>(action.kind)], action.microbatch, '.', action.stage);
}

}  // namespace tessera::parallel
