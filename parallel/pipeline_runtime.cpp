#include "parallel/pipeline_runtime.h"

#include <ATen/ops/empty.h>

#include <deque>
#include <map>
#include <tuple>
#include <utility>

#include "core/error.h"

namespace tessera::parallel {

namespace {

constexpr int kTags = 1 << 20;
constexpr size_t kReceivesAhead = 2;  // actions whose input is asked for early

/// What crosses the boundary in front of `stage`: its input on the way forward, that input's gradient on the way back.
struct Transfer {
  bool forward;
  int32_t stage, microbatch;
  friend bool operator<(const Transfer& a, const Transfer& b) {
    return std::tie(a.forward, a.stage, a.microbatch) < std::tie(b.forward, b.stage, b.microbatch);
  }
};

/// One run of one schedule.
class Run {
 public:
  Run(Communicator& pp, const PipelineSchedule& schedule, StageWork& work) : pp_(pp), schedule_(schedule), work_(work) {
    for (const Step& step : schedule.ranks.at(static_cast<size_t>(pp.rank()))) {
      actions_.push_back(step.first);
      if (step.second) actions_.push_back(*step.second);
    }
  }

  void go() {
    for (size_t i = 0; i < actions_.size(); ++i) {
      for (; posted_ < actions_.size() && posted_ <= i + kReceivesAhead; ++posted_) post_receive(actions_[posted_]);
      act(actions_[i]);
      while (!sends_.empty() && sends_.front()->done()) pop_send();
    }
    while (!sends_.empty()) pop_send();
  }

 private:
  [[nodiscard]] bool has_input(const Action& a) const { return a.kind == ActionKind::kForward && a.stage > 0; }
  [[nodiscard]] bool has_gradient(const Action& a) const {
    return (a.kind == ActionKind::kBackward || a.kind == ActionKind::kBackwardInput) && a.stage + 1 < schedule_.num_stages;
  }
  [[nodiscard]] int holder(int32_t stage, int32_t microbatch) const { return schedule_.placement.rank(stage, microbatch); }
  [[nodiscard]] int tag(const Transfer& t) const {
    return static_cast<int>(((int64_t{t.microbatch} * schedule_.num_stages + t.stage) * 2 + (t.forward ? 0 : 1)) % kTags);
  }
  [[nodiscard]] static std::string site(const Transfer& t) {
    return detail::concat(t.forward ? "forward" : "backward", " of stage ", t.forward ? t.stage : t.stage - 1, ", micro-batch ", t.microbatch);
  }
  [[nodiscard]] static int64_t elements(const std::vector<int64_t>& shape) {
    int64_t count = 1;
    for (int64_t size : shape) count *= size;
    return count;
  }

  /// What an action waits for, and the rank it comes from.
  [[nodiscard]] std::pair<Transfer, int> wanted(const Action& a) const {
    if (has_input(a)) return {{true, a.stage, a.microbatch}, holder(a.stage - 1, a.microbatch)};
    return {{false, a.stage + 1, a.microbatch}, holder(a.stage + 1, a.microbatch)};
  }

  void post_receive(const Action& action) {
    if (!has_input(action) && !has_gradient(action)) return;
    const auto [transfer, from] = wanted(action);
    if (from == pp_.rank()) return;
    const auto shape = work_.boundary_shape(action.microbatch);
    Pending pending{at::empty(shape, work_.boundary_options()), nullptr};
    if (elements(shape) > 0) pending.work = pp_.exchange({}, {{pending.tensor, from, tag(transfer)}}, site(transfer));
    pending_.emplace(transfer, std::move(pending));
  }

  at::Tensor take(const Transfer& transfer) {
    const auto found = pending_.find(transfer);
    TESSERA_CHECK(found != pending_.end(), "nothing arrives for stage ", transfer.stage, ", micro-batch ", transfer.microbatch);
    Pending pending = std::move(found->second);
    pending_.erase(found);
    if (pending.work) pending.work->wait();
    return pending.tensor;
  }

  void hand_on(const Transfer& transfer, int to, const at::Tensor& tensor) {
    if (to == pp_.rank()) {
      pending_.emplace(transfer, Pending{tensor, nullptr});
    } else if (tensor.numel() > 0) {
      sends_.push_back(pp_.exchange({{tensor.contiguous(), to, tag(transfer)}}, {}, site(transfer)));
    }
  }

  void act(const Action& a) {
    if (a.kind == ActionKind::kBackwardWeight) return work_.backward_weights(a.stage, a.microbatch);
    const at::Tensor arrived = has_input(a) || has_gradient(a) ? take(wanted(a).first) : at::Tensor();
    if (a.kind == ActionKind::kForward) {
      const at::Tensor output = work_.forward(a.stage, a.microbatch, arrived);
      if (a.stage + 1 < schedule_.num_stages) hand_on({true, a.stage + 1, a.microbatch}, holder(a.stage + 1, a.microbatch), output);
      return;
    }
    const at::Tensor gradient = work_.backward(a.stage, a.microbatch, arrived, a.kind == ActionKind::kBackwardInput);
    if (a.stage > 0) hand_on({false, a.stage, a.microbatch}, holder(a.stage - 1, a.microbatch), gradient);
  }

  void pop_send() {
    sends_.front()->wait();
    sends_.pop_front();
  }

  struct Pending {
    at::Tensor tensor;
    WorkPtr work;  // null: it is here
  };

  Communicator& pp_;
  const PipelineSchedule& schedule_;
  StageWork& work_;
  std::vector<Action> actions_;
  size_t posted_ = 0;
  std::map<Transfer, Pending> pending_;
  std::deque<WorkPtr> sends_;
};

}  // namespace

void PipelineRuntime::run(const PipelineSchedule& schedule, StageWork& work) {
  TESSERA_CHECK(schedule.num_ranks == pp_.size(), "a schedule of ", schedule.num_ranks, " ranks on ", pp_.size());
  Run(pp_, schedule, work).go();
}

}  // namespace tessera::parallel
