#include "parallel/pipeline_check.h"

#include <algorithm>
#include <functional>

#include "core/error.h"

namespace tessera::parallel {

namespace {

bool is_backward(ActionKind kind) { return kind == ActionKind::kBackward || kind == ActionKind::kBackwardInput; }

/// What one action waits for and makes, by (stage, micro-batch).
class Progress final {
 public:
  explicit Progress(const PipelineSchedule& s)
      : stages_(s.num_stages), done_(static_cast<size_t>(s.num_stages) * static_cast<size_t>(s.num_microbatches), 0) {}

  enum Bit : uint8_t { kForward = 1, kInput = 2, kWeight = 4 };
  static uint8_t makes(ActionKind kind) {
    switch (kind) {
      case ActionKind::kForward: return kForward;
      case ActionKind::kBackward: return kInput | kWeight;
      case ActionKind::kBackwardInput: return kInput;
      case ActionKind::kBackwardWeight: return kWeight;
    }
    return 0;
  }
  [[nodiscard]] bool has(int32_t stage, int32_t microbatch, uint8_t bits) const { return (at(stage, microbatch) & bits) == bits; }
  /// False when it was there already.
  bool add(const Action& a) {
    uint8_t& done = done_[index(a.stage, a.microbatch)];
    const uint8_t made = makes(a.kind);
    if ((done & made) != 0) return false;
    done |= made;
    return true;
  }
  /// What has to be done in the action's own stage before.
  [[nodiscard]] bool own_inputs_ready(const Action& a) const {
    if (a.kind == ActionKind::kForward) return true;
    return has(a.stage, a.microbatch, a.kind == ActionKind::kBackwardWeight ? kForward | kInput : kForward);
  }
  [[nodiscard]] bool complete() const {
    return std::all_of(done_.begin(), done_.end(), [](uint8_t d) { return d == (kForward | kInput | kWeight); });
  }

 private:
  [[nodiscard]] size_t index(int32_t stage, int32_t microbatch) const {
    return static_cast<size_t>(microbatch) * static_cast<size_t>(stages_) + static_cast<size_t>(stage);
  }
  [[nodiscard]] uint8_t at(int32_t stage, int32_t microbatch) const { return done_[index(stage, microbatch)]; }
  int32_t stages_;
  std::vector<uint8_t> done_;
};

[[noreturn]] void refuse(const PipelineSchedule& s, size_t rank, const Action& action, const char* what) {
  throw Error(detail::concat("pipeline schedule ", s.name, ": rank ", rank, ": ", to_string(action), " ", what));
}

template <typename Body>
void for_each_action(const Step& step, const Body& body) {
  body(step.first);
  if (step.second) body(*step.second);
}

void check_lists(const PipelineSchedule& s) {
  Progress progress(s);
  for (size_t r = 0; r < s.ranks.size(); ++r) {
    for (const Step& step : s.ranks[r]) {
      if (step.second && (step.first.kind != ActionKind::kForward || step.second->kind != ActionKind::kBackward))
        refuse(s, r, step.first, "is paired with something; a pair is a forward and a whole backward");
      for_each_action(step, [&](const Action& a) {
        if (a.stage < 0 || a.stage >= s.num_stages || a.microbatch < 0 || a.microbatch >= s.num_microbatches)
          refuse(s, r, a, "is out of range");
        if (s.placement.rank(a.stage, a.microbatch) != static_cast<int32_t>(r)) refuse(s, r, a, "is on a rank that does not hold its stage");
        if (!progress.own_inputs_ready(a)) refuse(s, r, a, "stands before what it needs");
        if (!progress.add(a)) refuse(s, r, a, "stands twice");
      });
    }
  }
  if (!progress.complete()) throw Error("pipeline schedule " + s.name + ": some action of a stage and micro-batch is missing");
}

/// The action in another stage whose result `a` waits for; none for the ends of the pipeline and for weights.
std::optional<Action> source_of(const PipelineSchedule& s, const Action& a) {
  if (a.kind == ActionKind::kForward && a.stage > 0) return Action{a.kind, a.stage - 1, a.microbatch};
  if (is_backward(a.kind) && a.stage + 1 < s.num_stages) return Action{a.kind, a.stage + 1, a.microbatch};
  return std::nullopt;
}

/// Where the result of `a` goes: the stage and its rank.
std::optional<int32_t> target_rank(const PipelineSchedule& s, const Action& a) {
  if (a.kind == ActionKind::kForward && a.stage + 1 < s.num_stages) return s.placement.rank(a.stage + 1, a.microbatch);
  if (is_backward(a.kind) && a.stage > 0) return s.placement.rank(a.stage - 1, a.microbatch);
  return std::nullopt;
}

/// Carries the lists out, each rank as far as it gets, until nobody can go on. A message is taken when its receiver comes to
/// the step that needs it; until then it keeps its sender from sending the next one the same way.
class Rendezvous final {
 public:
  explicit Rendezvous(const PipelineSchedule& s) : s_(s), computed_(s), at_(s.ranks.size(), 0), sending_(s.ranks.size()) {}

  void run() {
    std::vector<size_t> work(s_.ranks.size());
    for (size_t r = 0; r < work.size(); ++r) work[r] = r;
    while (!work.empty()) {
      const size_t rank = work.back();
      work.pop_back();
      while (advance(rank, work)) {
      }
    }
    for (size_t r = 0; r < s_.ranks.size(); ++r)
      if (at_[r] < s_.ranks[r].size()) refuse(s_, r, s_.ranks[r][at_[r]].first, "waits for ever");
  }

 private:
  struct Message {
    int32_t from_stage, to_stage, microbatch, to;
    friend bool operator==(const Message&, const Message&) = default;
  };

  [[nodiscard]] int32_t rank_of(const Action& a) const { return s_.placement.rank(a.stage, a.microbatch); }

  bool advance(size_t rank, std::vector<size_t>& work) {
    if (at_[rank] >= s_.ranks[rank].size()) return false;
    const Step& step = s_.ranks[rank][at_[rank]];
    bool ready = true;
    for_each_action(step, [&](const Action& a) { ready = inputs_arrived(rank, a, work) && ready; });
    for_each_action(step, [&](const Action& a) { ready = ready && way_is_free(rank, a); });
    if (!ready) return false;
    for_each_action(step, [&](const Action& a) {
      computed_.add(a);
      const auto to = target_rank(s_, a);
      if (!to) return;
      const int32_t next = a.kind == ActionKind::kForward ? a.stage + 1 : a.stage - 1;
      if (*to != static_cast<int32_t>(rank)) sending_[rank].push_back({a.stage, next, a.microbatch, *to});
      work.push_back(static_cast<size_t>(*to));
    });
    ++at_[rank];
    return true;
  }

  /// Takes the message if it has been sent: waiting for it is what completes it.
  bool inputs_arrived(size_t rank, const Action& a, std::vector<size_t>& work) {
    const auto source = source_of(s_, a);
    if (!source) return true;
    const auto sender = static_cast<size_t>(rank_of(*source));
    if (!computed_.has(source->stage, source->microbatch, a.kind == ActionKind::kForward ? Progress::kForward : Progress::kInput)) return false;
    if (sender == rank) return true;
    auto& pending = sending_[sender];
    const auto found = std::find(pending.begin(), pending.end(), Message{source->stage, a.stage, a.microbatch, static_cast<int32_t>(rank)});
    if (found != pending.end()) {
      pending.erase(found);
      work.push_back(sender);
    }
    return true;
  }

  [[nodiscard]] bool way_is_free(size_t rank, const Action& a) const {
    const auto to = target_rank(s_, a);
    if (!to) return true;
    const int32_t next = a.kind == ActionKind::kForward ? a.stage + 1 : a.stage - 1;
    return std::none_of(sending_[rank].begin(), sending_[rank].end(),
                        [&](const Message& m) { return m.from_stage == a.stage && m.to_stage == next && m.to == *to; });
  }

  const PipelineSchedule& s_;
  Progress computed_;
  std::vector<size_t> at_;
  std::vector<std::vector<Message>> sending_;
};

double cost_of(const Action& a, const ActionCosts& costs) {
  const double scale = costs.stage_scale.empty() ? 1.0 : costs.stage_scale[static_cast<size_t>(a.stage)];
  switch (a.kind) {
    case ActionKind::kForward: return scale * costs.forward;
    case ActionKind::kBackward: return scale * (costs.backward_input + costs.backward_weight);
    case ActionKind::kBackwardInput: return scale * costs.backward_input;
    case ActionKind::kBackwardWeight: return scale * costs.backward_weight;
  }
  return 0;
}

double cost_of(const Step& step, const ActionCosts& costs) {
  return cost_of(step.first, costs) + (step.second ? cost_of(*step.second, costs) - costs.overlapped_saving : 0.0);
}

}  // namespace

void check(const PipelineSchedule& schedule) {
  check_lists(schedule);
  Rendezvous(schedule).run();
}

std::vector<int32_t> peak_activations(const PipelineSchedule& schedule) {
  std::vector<int32_t> peaks;
  for (const auto& steps : schedule.ranks) {
    int32_t held = 0, peak = 0;
    for (const Step& step : steps) {
      for_each_action(step, [&](const Action& a) {
        if (a.kind == ActionKind::kForward) peak = std::max(peak, ++held);
        if (a.kind == ActionKind::kBackward || a.kind == ActionKind::kBackwardWeight) --held;
      });
    }
    peaks.push_back(peak);
  }
  return peaks;
}

Timeline simulate(const PipelineSchedule& s, const ActionCosts& costs) {
  const size_t cells = static_cast<size_t>(s.num_stages) * static_cast<size_t>(s.num_microbatches);
  std::vector<double> forward(cells, -1), backward(cells, -1);  // when they end
  const auto cell = [&](const Action& a) { return static_cast<size_t>(a.microbatch) * static_cast<size_t>(s.num_stages) + static_cast<size_t>(a.stage); };
  Timeline timeline;
  timeline.begin.resize(s.ranks.size());
  timeline.end.resize(s.ranks.size());
  std::vector<double> clock(s.ranks.size(), 0);
  std::vector<size_t> work(s.ranks.size());
  for (size_t r = 0; r < work.size(); ++r) work[r] = r;

  // When the inputs of `a` are on its rank; negative: not yet made.
  const auto arrival = [&](size_t rank, const Action& a) {
    const auto source = source_of(s, a);
    if (!source) return 0.0;
    const double made = (a.kind == ActionKind::kForward ? forward : backward)[cell(*source)];
    const bool local = s.placement.rank(source->stage, source->microbatch) == static_cast<int32_t>(rank);
    return made < 0 || local ? made : made + costs.transfer;
  };
  while (!work.empty()) {
    const size_t rank = work.back();
    work.pop_back();
    auto& begins = timeline.begin[rank];
    while (begins.size() < s.ranks[rank].size()) {
      const Step& step = s.ranks[rank][begins.size()];
      double begin = clock[rank];
      bool ready = true;
      for_each_action(step, [&](const Action& a) {
        const double at = arrival(rank, a);
        ready = ready && at >= 0;
        begin = std::max(begin, at);
      });
      if (!ready) break;
      clock[rank] = begin + cost_of(step, costs);
      begins.push_back(begin);
      timeline.end[rank].push_back(clock[rank]);
      for_each_action(step, [&](const Action& a) {
        if (a.kind == ActionKind::kForward) forward[cell(a)] = clock[rank];
        if (is_backward(a.kind)) backward[cell(a)] = clock[rank];
        if (const auto to = target_rank(s, a)) work.push_back(static_cast<size_t>(*to));
      });
    }
  }
  for (size_t r = 0; r < s.ranks.size(); ++r) {
    TESSERA_CHECK(timeline.end[r].size() == s.ranks[r].size(), "rank ", r, " cannot finish; check() the schedule first");
    double busy = 0;
    for (const Step& step : s.ranks[r]) busy += cost_of(step, costs);
    if (timeline.end[r].empty()) continue;
    timeline.makespan = std::max(timeline.makespan, timeline.end[r].back());
    timeline.bubble = std::max(timeline.bubble, timeline.end[r].back() - timeline.begin[r].front() - busy);
  }
  return timeline;
}

}  // namespace tessera::parallel
