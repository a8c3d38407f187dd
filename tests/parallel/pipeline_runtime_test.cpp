// Schedules on real ranks: each rank does the actions of its list in their order, gets what the neighbouring stage made, and
// keeps as many forwards as the list says, no more.
#include "parallel/pipeline_runtime.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <thread>

#include "mpi_main.h"
#include "parallel/mesh.h"
#include "parallel/pipeline_check.h"

namespace tessera::parallel {
namespace {

constexpr int64_t kRows = 3, kDim = 5;

at::Tensor filled(double value) { return torch::full({kRows, kDim}, value, torch::kFloat); }
double output_of(int32_t stage, int32_t microbatch) { return 1000.0 * stage + microbatch + 0.5; }
double gradient_of(int32_t stage, int32_t microbatch) { return -1000.0 * stage - microbatch - 0.25; }

/// Checks what arrives, hands on tensors that tell when they are let go.
class Recorder final : public StageWork {
 public:
  explicit Recorder(int32_t stages) : stages_(stages) {}

  std::vector<int64_t> boundary_shape(int32_t microbatch) const override { return {microbatch % 3 == 2 ? 0 : kRows, kDim}; }

  at::Tensor forward(int32_t stage, int32_t microbatch, at::Tensor input) override {
    actions.push_back({ActionKind::kForward, stage, microbatch});
    if (stage > 0) expect(input, output_of(stage - 1, microbatch), microbatch);
    at::Tensor output = made(output_of(stage, microbatch), microbatch);
    kept_[{stage, microbatch}] = output;
    peak = std::max(peak, kept_.size());
    return output;
  }
  at::Tensor backward(int32_t stage, int32_t microbatch, at::Tensor gradient, bool weights_later) override {
    actions.push_back({weights_later ? ActionKind::kBackwardInput : ActionKind::kBackward, stage, microbatch});
    if (stage + 1 < stages_) expect(gradient, gradient_of(stage + 1, microbatch), microbatch);
    if (!weights_later) kept_.erase({stage, microbatch});
    return made(gradient_of(stage, microbatch), microbatch);
  }
  void backward_weights(int32_t stage, int32_t microbatch) override {
    actions.push_back({ActionKind::kBackwardWeight, stage, microbatch});
    kept_.erase({stage, microbatch});
  }

  std::vector<Action> actions;
  size_t peak = 0;
  std::atomic<int> alive = 0;  // tensors handed on that somebody still holds

 private:
  at::Tensor made(double value, int32_t microbatch) {
    const auto shape = boundary_shape(microbatch);
    auto values = std::make_shared<at::Tensor>(filled(value));
    ++alive;
    return torch::from_blob(values->data_ptr(), shape, [this, values](void*) { --alive; }, torch::kFloat);
  }
  void expect(const at::Tensor& arrived, double value, int32_t microbatch) const {
    ASSERT_TRUE(arrived.defined());
    ASSERT_EQ(arrived.sizes(), at::IntArrayRef(boundary_shape(microbatch)));
    EXPECT_TRUE(arrived.eq(value).all().item<bool>()) << arrived << " is not " << value;
  }

  int32_t stages_;
  std::map<std::pair<int32_t, int32_t>, at::Tensor> kept_;
};

class Runtime : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Schedules, Runtime, testing::ValuesIn(pipeline_schedule_names()));

TEST_P(Runtime, DoesTheListInOrderWithItsMemory) {
  const int32_t p = test_world().size();
  const auto rank = static_cast<size_t>(test_world().rank());
  if (GetParam() == "dualpipe" && p % 2 != 0) GTEST_SKIP() << "dualpipe needs an even number of ranks";
  const MicrobatchRule rule = microbatch_rule(GetParam(), p);
  const int32_t least = (std::max(rule.at_least, 1) + rule.multiple_of - 1) / rule.multiple_of * rule.multiple_of;
  PipelineRuntime runtime(test_world());
  for (const int32_t more : {0, 1, 4}) {
    const auto schedule = make_pipeline_schedule(GetParam(), p, least + more * rule.multiple_of, 2);
    check(schedule);
    Recorder work(schedule.num_stages);
    runtime.run(schedule, work);
    std::vector<Action> list;
    for (const Step& step : schedule.ranks[rank]) {
      list.push_back(step.first);
      if (step.second) list.push_back(*step.second);
    }
    EXPECT_EQ(work.actions, list);
    EXPECT_EQ(static_cast<int32_t>(work.peak), peak_activations(schedule)[rank]);
    // The thread that moved them lets go a moment later.
    for (int i = 0; i < 2000 && work.alive != 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_EQ(work.alive, 0) << "the runtime still holds tensors";
  }
}

}  // namespace
}  // namespace tessera::parallel
