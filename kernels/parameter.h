// A model parameter and where its gradient goes. Layers that own parameters are autograd Functions of their own: the
// gradient of their input flows through autograd, the gradient of the parameter is added straight into `gradient`, a view
// of a flat bucket. The owner of the bucket is called before a value is used, before a gradient is added to, and after.
#pragma once

#include <ATen/core/Tensor.h>

#include <deque>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace tessera::kernels {

/// Weight gradients of a pipeline stage that wait: for a later action of the schedule (zero-bubble schedules), so that the
/// gradient of the input can be sent on first, or, with `filling`, for a time in which the backward pass waits for peers.
struct GradientQueue {
  bool deferring = false, filling = false;
  std::deque<std::function<void()>> waiting;

  /// Makes the oldest; false when there is none or they wait for the schedule.
  bool fill() {
    if (!filling || waiting.empty()) return false;
    const auto work = std::move(waiting.front());
    waiting.pop_front();
    work();
    return true;
  }
};

namespace fp8 {
class BlockMatrix;
}

struct Parameter {
  at::Tensor value;     // float32, contiguous; without memory where `codes` has the numbers
  at::Tensor gradient;  // same shape, float32; undefined: frozen, or made by on_open
  std::shared_ptr<fp8::BlockMatrix> codes = {};  // of a frozen weight that is kept in one byte an element
  uint64_t version = 0;  // grows when the optimizer, or whoever else writes into a bucket, has changed the value
  // Of the owner; may be empty.
  std::function<void()> on_use;       // waits until the value is whole: other ranks may be sending parts of it
  std::function<void()> on_open;      // makes the gradient's memory if it has none
  std::function<void()> on_gradient;  // after each addition
  GradientQueue* queue = nullptr;     // of the stage, where a pipeline runs

  [[nodiscard]] bool trainable() const { return gradient.defined() || on_open; }
  void await() const {
    if (on_use) on_use();
  }
  /// `value`, or made anew of the codes: for the time of a product, or to be read.
  [[nodiscard]] at::Tensor values() const;
  /// What a layer adds its gradient to; then it calls gradient_added.
  [[nodiscard]] const at::Tensor& open_gradient() const {
    if (on_open) on_open();
    return gradient;
  }
  void gradient_added() const {
    if (on_gradient) on_gradient();
  }
  /// Runs `work`, which adds to the gradients of a layer that owns this parameter, now or when the schedule says.
  template <typename WeightWork>
  void now_or_later(WeightWork&& work) const {
    if (queue != nullptr && queue->deferring) {
      queue->waiting.emplace_back(std::forward<WeightWork>(work));
    } else {
      work();
    }
  }
};
using ParameterPtr = std::shared_ptr<Parameter>;

/// Frozen; allocated but not touched, so that memory is spent only when it is filled.
[[nodiscard]] ParameterPtr make_parameter(const std::vector<int64_t>& shape);

/// Moves a frozen weight to a device that activations of `type` are on; codes stay codes.
void move_to(Parameter& parameter, c10::Device device, at::ScalarType type);

/// From now on a matrix [rows, columns] is kept as FP8 codes, which are still to be put.
void keep_codes(Parameter& parameter);

}  // namespace tessera::kernels
