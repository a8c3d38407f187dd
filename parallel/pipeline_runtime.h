// Carries out one rank's part of a pipeline schedule: receives what an action needs, has it done, sends on what it made.
// Receives are posted ahead and sends are not waited for, so that transfers run beside computation.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/pipeline_schedule.h"

namespace tessera::parallel {

/// What the actions of a schedule do on this rank.
class StageWork {
 public:
  virtual ~StageWork() = default;
  /// Shape of the tensor that stages hand on for a micro-batch; the same on all ranks of the pipeline. Without
  /// elements nothing is sent.
  [[nodiscard]] virtual std::vector<int64_t> boundary_shape(int32_t microbatch) const = 0;
  /// Its type and place.
  [[nodiscard]] virtual at::TensorOptions boundary_options() const { return at::TensorOptions(at::kFloat); }
  /// `input` is undefined in the first stage. Returns the output; of the last stage it is not looked at.
  virtual at::Tensor forward(int32_t stage, int32_t microbatch, at::Tensor input) = 0;
  /// `gradient` is that of the output, undefined in the last stage. Returns the input's; of the first stage it is not looked
  /// at. With `weights_later` the gradients of the weights are left for backward_weights.
  virtual at::Tensor backward(int32_t stage, int32_t microbatch, at::Tensor gradient, bool weights_later) = 0;
  virtual void backward_weights(int32_t stage, int32_t microbatch) = 0;
};

class PipelineRuntime final {
 public:
  /// `pp` is the axis of the pipeline; its ranks are those of the schedules.
  explicit PipelineRuntime(Communicator& pp) : pp_(pp) {}

  /// The schedule must pass check(). Collective over the axis.
  void run(const PipelineSchedule& schedule, StageWork& work);

 private:
  Communicator& pp_;
};

}  // namespace tessera::parallel
