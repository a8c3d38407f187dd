#include "plan/dry_run.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <optional>

#include "core/error.h"
#include "data/loader.h"
#include "model/lora.h"
#include "moe/load_balancer.h"
#include "parallel/mesh.h"
#include "trainer/loss_terms.h"
#include "trainer/stages.h"

namespace tessera::plan {

namespace {

/// Takes the weights' memory from them.
void forget(const trainer::Stages& stages) {
  for (auto* stage : stages.models())
    for (const auto& weight : stage->weights())
      weight.parameter->value = at::empty(weight.parameter->value.sizes(), at::TensorOptions(at::kFloat).device(at::kMeta));
}

/// The passages of one step, as they were recorded.
class Replay {
 public:
  explicit Replay(const trainer::CommunicationRecord& record) : record_(record) {}
  moe::Passage next(int members) {
    const bool there = next_ < record_.passages.size();
    if (!there || static_cast<int>(record_.passages[next_].departing.size()) != members)
      throw ConfigError(detail::concat("the replayed run does not fit the recipe: in step ", record_.step, " its exchange of tokens number ", next_ + 1,
                                       there ? " has another number of ranks" : " is missing", "; replay a run of the same recipe and ranks"));
    return record_.passages[next_++];
  }

 private:
  const trainer::CommunicationRecord& record_;
  size_t next_ = 0;
};

}  // namespace

moe::Passage expected_passage(int64_t tokens, int64_t members, int64_t num_experts, int64_t choices) {
  // A member is missed when all choices fall to the others' experts.
  double missed = 1;
  const int64_t others = num_experts - num_experts / members;
  for (int64_t k = 0; k < choices; ++k) missed *= std::max(0.0, static_cast<double>(others - k) / static_cast<double>(num_experts - k));
  const auto rows = static_cast<int64_t>(std::llround(static_cast<double>(tokens) * (1 - missed)));
  return {std::vector<int64_t>(static_cast<size_t>(members), rows), std::vector<int64_t>(static_cast<size_t>(members), rows)};
}

// Follows Trainer::train_step exchange by exchange; a test compares the counts of both.
std::vector<trainer::CommunicationRecord> dry_run(const trainer::TrainerConfig& config, const data::Dataset& data, const DryRunOptions& options) {
  const auto world = parallel::make_dry_run_communicator(options.rank, options.world_size);
  const parallel::Mesh mesh(*world, config.parallel);
  const model::ModelConfig model = config.model.load_config();
  const bool mtp = config.mtp.loss_weight > 0, adapters = config.model.lora.has_value();
  trainer::Stages stages(model, mesh, config.parallel, mtp);
  if (adapters)
    for (auto* stage : stages.models()) (void)model::add_adapters(*stage, *config.model.lora, config.seed);
  forget(stages);
  stages.make_trainable(adapters, config.precision.values());
  moe::LoadBalancer balancer(stages.routers(), stages.moe_layers(), model.moe.num_experts, config.moe.bias_update_rate);
  data::StepLoader loader(data, stages.step_plan(config.train, 0));
  std::vector<trainer::CommunicationRecord> records;
  for (int64_t step = 0; step < options.steps; ++step) {
    const auto before = world->traffic();
    trainer::CommunicationRecord record;
    record.step = step + 1;
    std::optional<Replay> replay;
    if (options.replay != nullptr) {
      if (step >= static_cast<int64_t>(options.replay->size()))
        throw ConfigError(detail::concat("the replayed run has ", options.replay->size(), " steps; ask for no more"));
      replay.emplace((*options.replay)[static_cast<size_t>(step)]);
    }
    const trainer::PassageSource passages = [&](const parallel::Communicator& group, int64_t tokens) {
      record.passages.push_back(replay ? replay->next(group.size()) : expected_passage(tokens, group.size(), model.moe.num_experts, model.moe.experts_per_token));
      return record.passages.back();
    };
    const data::StepBatch batch = loader.next();
    const auto counts = trainer::count_step(batch, mtp ? model.num_mtp_modules : 0, *world, mesh.size("pp"));
    balancer.begin_step();
    stages.rehearse(batch, trainer::loss_terms(counts, config.moe, config.mtp, !balancer.empty()), passages, config.precision.wire(),
                    config.train.recompute == "full");
    for (auto* buckets : stages.buckets()) buckets->finish_reduction();
    (void)balancer.collect(*world);
    world->all_reduce(at::zeros({6}, at::kDouble))->wait();
    for (auto* buckets : stages.buckets())
      for (size_t b = 0; b < buckets->buckets().size(); ++b) buckets->start_gather(b);
    record.traffic = trainer::traffic_since(before, world->traffic());
    records.push_back(std::move(record));
  }
  return records;
}

}  // namespace tessera::plan
