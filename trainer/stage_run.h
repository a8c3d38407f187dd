// What the actions of a pipeline schedule do in one step: with the model, or, in a dry run, its exchanges alone.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "parallel/pipeline_runtime.h"
#include "trainer/stages.h"

namespace tessera::trainer {

/// The part that needs no model: which micro-batches are passed over, when gradients are reduced.
class StepRun : public parallel::StageWork {
 public:
  StepRun(const std::vector<std::unique_ptr<Stage>>& stages, const std::vector<data::MicroBatch>& micro_batches, const LossTerms& terms,
          bool training, const Boundary& boundary);

  /// Counts the weight gradients that are to come.
  void expect(const std::vector<parallel::Step>& steps);

  [[nodiscard]] std::vector<int64_t> boundary_shape(int32_t microbatch) const override;
  [[nodiscard]] at::TensorOptions boundary_options() const override { return boundary_.options; }
  at::Tensor forward(int32_t number, int32_t microbatch, at::Tensor input) override;
  at::Tensor backward(int32_t number, int32_t microbatch, at::Tensor gradient, bool weights_later) override;
  void backward_weights(int32_t number, int32_t microbatch) override;

 protected:
  virtual at::Tensor run_forward(Stage& stage, int32_t microbatch, at::Tensor input) = 0;
  virtual at::Tensor run_backward(Stage& stage, int32_t microbatch, const at::Tensor& gradient, bool weights_later) = 0;
  virtual void run_weights(const Stage& stage, int32_t microbatch) = 0;

  [[nodiscard]] const data::MicroBatch& at(int32_t microbatch) const { return micro_batches_[static_cast<size_t>(microbatch)]; }
  [[nodiscard]] bool training() const { return training_; }
  [[nodiscard]] const LossTerms& terms() const { return terms_; }

 private:
  struct State {
    Stage* stage = nullptr;
    int64_t left = 0;  // micro-batches whose weight gradients are still to come
    bool reducing = false;
  };
  void start_reductions();
  [[nodiscard]] bool passed_over(int32_t microbatch) const;

  std::map<int32_t, State> stages_;
  const std::vector<data::MicroBatch>& micro_batches_;
  const LossTerms& terms_;
  bool training_;
  Boundary boundary_;
};

/// A step, or an evaluation, with the model.
class StageRun final : public StepRun {
 public:
  using StepRun::StepRun;
  /// Of what has run so far.
  [[nodiscard]] StepLoss loss() const;
  /// Most forwards that were kept at a time for their backward.
  [[nodiscard]] size_t peak_kept() const { return peak_kept_; }

 private:
  /// What the backward pass of a micro-batch needs.
  struct Kept {
    at::Tensor input, output;  // of the last stage the loss
    std::vector<model::MtpRows> mtp;
    std::unique_ptr<const moe::LayerChoices> experts;  // imposed
    std::deque<std::function<void()>> weights;
  };

  at::Tensor run_forward(Stage& stage, int32_t microbatch, at::Tensor input) override;
  at::Tensor run_backward(Stage& stage, int32_t microbatch, const at::Tensor& gradient, bool weights_later) override;
  void run_weights(const Stage& stage, int32_t microbatch) override;
  void add_loss(model::CausalLM& model, int32_t microbatch, const kernels::Targets& targets, Kept& kept);

  std::map<std::pair<int32_t, int32_t>, Kept> kept_;  // by stage and micro-batch
  size_t peak_kept_ = 0;
  std::vector<at::Tensor> losses_, mtp_losses_;  // scalars, wherever they were made
};

/// A step's exchanges without computation.
class RehearsedRun final : public StepRun {
 public:
  RehearsedRun(const std::vector<std::unique_ptr<Stage>>& stages, const std::vector<data::MicroBatch>& micro_batches, const LossTerms& terms,
               const model::ModelConfig& config, const PassageSource& passages, const moe::Wire& wire, bool blocks_again);

 private:
  struct Exchange {
    parallel::Communicator* group = nullptr;
    moe::Passage passage;
  };

  at::Tensor run_forward(Stage& stage, int32_t microbatch, at::Tensor input) override;
  at::Tensor run_backward(Stage& stage, int32_t microbatch, const at::Tensor& gradient, bool weights_later) override;
  void run_weights(const Stage&, int32_t) override {}
  void exchange_tokens(const parallel::ExpertAxis& axis, int64_t tokens, std::vector<Exchange>& done);
  [[nodiscard]] at::Tensor boundary(int32_t microbatch) const;

  const model::ModelConfig& config_;
  const PassageSource& passages_;
  moe::Wire wire_;
  bool blocks_again_;
  std::map<std::pair<int32_t, int32_t>, std::vector<std::vector<Exchange>>> kept_;  // of each layer with experts
};

}  // namespace tessera::trainer
