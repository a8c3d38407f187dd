// The pipeline stages of one rank: their parts of the model, the flat buckets of what is trained, and the forward and
// backward passes of a step as the schedule orders them. Without a pipeline there is one stage, the model.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "data/loader.h"
#include "model/causal_lm.h"
#include "parallel/flat_buckets.h"
#include "parallel/mesh.h"
#include "parallel/pipeline_runtime.h"
#include "parallel/replica_groups.h"
#include "trainer/loss_terms.h"

namespace tessera::trainer {

struct Stage {
  int32_t number = 0;
  std::unique_ptr<model::CausalLM> model;
  kernels::GradientQueue queue;
  std::vector<parallel::FlatBuckets*> buckets;  // whose gradients this stage alone makes
};

class StepRun;

/// The rows of a layer's next exchange of tokens, given those of this rank; see moe::rehearse.
using PassageSource = std::function<moe::Passage(const parallel::Communicator& group, int64_t tokens)>;

class Stages final {
 public:
  /// `mtp`: whether MTP modules are trained. `passages`, if given, receives those of the experts' tokens. Collective over the
  /// mesh's world. Throws ConfigError when the model cannot be laid out so.
  Stages(const model::ModelConfig& config, const parallel::Mesh& mesh, const parallel::ParallelConfig& parallel, bool mtp,
         std::vector<moe::Passage>* passages = nullptr);

  [[nodiscard]] const model::ModelConfig& config() const { return config_; }
  /// Which ranks hold what, a line a pipeline rank.
  [[nodiscard]] std::vector<std::string> table() const;
  [[nodiscard]] std::vector<model::CausalLM*> models() const;
  /// Micro-batches that the schedule needs at least, and a multiple of which.
  [[nodiscard]] parallel::MicrobatchRule microbatch_rule() const;

  [[nodiscard]] const std::vector<std::unique_ptr<Stage>>& stages() const { return stages_; }
  /// The checked schedule of a step of so many micro-batches.
  const parallel::PipelineSchedule& schedule(int32_t microbatches);
  /// Moves what is trained into flat buckets: the adapters, or all weights. `values`: the dtype that passes take them in.
  void make_trainable(bool adapters, at::ScalarType values = at::kFloat);
  /// All weights have been written: rounds them to the dtype of make_trainable, but for correction biases.
  void adopt_values();
  [[nodiscard]] std::vector<parallel::FlatBuckets*> buckets() const;
  /// Weights of this rank, each once. `adapters`: theirs only.
  [[nodiscard]] std::vector<model::NamedWeight> weights(bool adapters) const;
  /// Of those, what no optimizer moves: correction biases, MTP modules that are not trained. `to_write`: without those that
  /// another rank writes.
  [[nodiscard]] std::vector<model::NamedWeight> constants(bool adapters, bool to_write) const;
  [[nodiscard]] std::vector<moe::LayerRouter> routers() const;
  /// The numbers of all layers of the model that route, MTP modules' included where they are trained.
  [[nodiscard]] std::vector<int64_t> moe_layers() const;

  /// How this rank's rows are dealt, from step `first_step` on.
  [[nodiscard]] data::StepPlan step_plan(const StepConfig& config, int64_t first_step) const;
  /// Forward and backward passes of a step; the buckets' reductions are started on the way. Returns this rank's part of the loss.
  StepLoss forward_backward(const data::StepBatch& batch, const LossTerms& terms);
  /// The same exchanges without computation, for dry runs. `wire`: in what tokens travel; `blocks_again`: blocks are recomputed.
  void rehearse(const data::StepBatch& batch, const LossTerms& terms, const PassageSource& passages, const moe::Wire& wire, bool blocks_again);
  /// Forward passes alone: the sum of the cross-entropies of all targets, as far as they are this rank's, or of what `objective` says.
  double evaluate(const std::vector<data::MicroBatch>& micro_batches, Objective* objective = nullptr);
  /// Which ranks of the pipeline hold the stages that a forward pass goes through, in order.
  [[nodiscard]] const std::vector<int32_t>& route() const { return placement_.routes.front(); }
  /// Whether half of the micro-batches of training take another route, so that ranks train stages which are not theirs on route().
  [[nodiscard]] bool bidirectional() const { return placement_.routes.size() > 1; }

 private:
  const parallel::PipelineSchedule& carry_out(const data::StepBatch& batch, StepRun& run);
  [[nodiscard]] parallel::Communicator& group(model::CausalLM::Replicas replicas) const;

  model::ModelConfig config_;
  const parallel::Mesh& mesh_;
  std::vector<model::Shard> plan_;  // of all stages
  parallel::Placement placement_;
  std::string schedule_name_;
  int32_t stages_per_rank_;
  int zero_stage_;
  at::ScalarType values_ = at::kFloat;
  bool mtp_;
  std::map<int32_t, parallel::PipelineSchedule> schedules_;  // by number of micro-batches
  std::unique_ptr<parallel::ReplicaGroups> groups_;
  std::vector<std::unique_ptr<Stage>> stages_;
  std::vector<std::unique_ptr<parallel::FlatBuckets>> buckets_;
  parallel::PipelineRuntime runtime_;
};

}  // namespace tessera::trainer
