#include "rl/reinforcement.h"

#include <ATen/ops/tensor.h>

#include <algorithm>
#include <utility>

#include "core/clock.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/progress.h"
#include "core/text.h"
#include "rl/pending.h"

namespace tessera::rl {

namespace {

using nlohmann::json;
using trainer::StepResult;

// In checkpoints: the phase that is trained on, and the one made beside it.
constexpr const char *kPhase = "phase", *kNextPhase = "next_phase";

int64_t num_prompts_of_a_phase(const trainer::TrainerConfig& config, const RlConfig& rl) {
  return config.train.sequences_per_step * rl.updates_per_rollout / rl.rollouts_per_prompt;
}

void check(const trainer::TrainerConfig& config, const RlConfig& rl) {
  rl.validate();
  const int64_t rollouts = config.train.sequences_per_step * rl.updates_per_rollout;
  if (rollouts % rl.rollouts_per_prompt != 0)
    throw ConfigError(detail::concat("train.sequences_per_step = ", config.train.sequences_per_step, " counts rollouts: times rl.updates_per_rollout = ",
                                     rl.updates_per_rollout, " it must be a multiple of rl.rollouts_per_prompt = ", rl.rollouts_per_prompt));
  if (config.mtp.loss_weight > 0) throw ConfigError("mtp.loss_weight must be 0 with task: grpo, whose objective is on the next token alone");
  if (config.device != "cpu" && rl.staleness > 0)
    throw ConfigError("rl.staleness must be 0 with device = " + config.device + ", which makes rollouts and trains in turn in this version");
  if (config.train.batch_ramp.steps > 0) throw ConfigError("train.batch_ramp.steps must be 0 with task: grpo");
}

}  // namespace

Reinforcement::Reinforcement(trainer::TrainerConfig config, RlConfig rl, trainer::TrainOptions options, parallel::Communicator& world)
    : learner_(std::move(config), std::move(options), world), config_(learner_.config()), rl_(std::move(rl)),
      policy_{rl_.objective, rl_.clip_low, rl_.clip_high, rl_.kl_coefficient, rl_.importance_cap, rl_.max_new_tokens} {
  check(config_, rl_);
}

trainer::TrainEnd Reinforcement::train() {
  load();
  int64_t step = learner_.resume(prompts_->hash(), [this](auto& reader, const json& values) { read_state(reader, values); });
  learner_.begin(step);
  Progress progress(config_.name, config_.train.steps, "steps", learner_.shows_progress(), step);
  int64_t saved = step;
  bool stop = false;
  while (step < config_.train.steps && !stop) {
    if (updates_made_ == 0) begin_phase(step);
    RolloutBatch batch = next_batch(step);
    PolicyObjective objective(policy_, denominators(), rl_.temperature, batch.policies);
    const StepResult result = learner_.step(batch.batch, &objective);
    const PolicyStatistics policy = objective.collect(learner_.world());
    updates_made_ = (updates_made_ + 1) % rl_.updates_per_rollout;
    stop = result.stop;
    learner_.check_saving();
    if (beside_) beside_->check();
    ++step;
    if (has_reference() && rl_.reference_refresh_every > 0 && step % rl_.reference_refresh_every == 0) reference_->refresh();
    report(step, result, policy, evaluates_at(step) ? evaluate() : std::vector<double>{});
    progress.update(step, "reward " + short_number(phase_.statistics.reward) + "  length " + short_number(phase_.statistics.length));
    if (stop || step == config_.train.steps || (config_.checkpoint.every > 0 && step % config_.checkpoint.every == 0)) {
      save(step);
      saved = step;
    }
  }
  progress.finish();
  if (saved < step) save(step);
  return learner_.finish(step);
}

void Reinforcement::load() {
  const auto folder = config_.model.tokenizer_folder();
  tokenizer_ = std::make_unique<data::Tokenizer>(data::Tokenizer::load(folder));
  chat_template_ = data::ChatTemplate::load_if_present(folder);
  learner_.load_model(*tokenizer_);
  const auto& model = learner_.stages().config();
  if (rl_.routing_replay && !model.has_experts())
    throw ConfigError("rl.routing_replay takes the experts of the rollouts again, and the model (" + model.model_type + ") has none; set it to false");
  const data::PromptReader reader{*tokenizer_, chat_template_ ? &*chat_template_ : nullptr, model.vocab_size};
  const int64_t longest = model.max_position_embeddings - 1;
  prompts_ = std::make_unique<Prompts>(config_.data.train, reader, longest, config_.seed);
  if (!config_.data.validation.empty()) validation_ = std::make_unique<Prompts>(config_.data.validation, reader, longest, config_.seed);
  auto stop_ids = tokenizer_->stop_ids().empty() ? model.eos_token_ids : tokenizer_->stop_ids();
  maker_ = std::make_unique<RolloutMaker>(rl_, *tokenizer_, std::move(stop_ids), config_.seed);
  if (has_reference()) reference_ = std::make_unique<trainer::WeightSnapshot>(learner_.stages());
  if (rl_.staleness > 0) beside_ = std::make_unique<StaleRollouts>(learner_.stages(), config_, learner_.world(), *maker_, *prompts_);
  log::info("prompts: ", prompts_->size(), "; a step: ", rollouts_per_step(), " rollouts; a phase of rollouts: ", num_prompts_of_a_phase(config_, rl_),
            " prompts x ", rl_.rollouts_per_prompt);
}

/// The rollouts made beside the phase before, or, where there are none, new ones by the model as it is.
void Reinforcement::begin_phase(int64_t step) {
  collect_rollouts();
  if (next_phase_) {
    phase_ = std::move(*next_phase_);
    next_phase_.reset();
  } else {
    const auto start = Clock::now();
    for (auto* buckets : learner_.stages().buckets()) buckets->finish_gather();
    const auto busy = learner_.world().announce("making rollouts");
    phase_ = maker_->make(live_policy(), *prompts_, next_prompt_, num_prompts_of_a_phase(config_, rl_), shows_samples(step));
    next_prompt_ = phase_.next_prompt;
    wait_seconds_ += seconds_since(start);
  }
  for (size_t k = 0; k < maker_->failures().size(); ++k) {
    const auto& failures = maker_->failures()[k];
    if (failures.count > 0) log::warn("step ", step + 1, ": reward ", maker_->reward_names()[k], " has failed for ", failures.count, " completions so far; the last: ", failures.last_error);
  }
  if (!phase_.samples.empty() && learner_.world().rank() == 0) {
    const auto folder = learner_.run().path() / "samples";
    make_directories(folder);
    write_file_atomically(folder / detail::concat("step-", step, ".md"), phase_.samples);
  }
  const int64_t next_step = step + rl_.updates_per_rollout;
  if (beside_ && next_step < config_.train.steps) beside_->start(next_prompt_, num_prompts_of_a_phase(config_, rl_), shows_samples(next_step));
}

/// Waits for the rollouts that are made beside training, if any are.
void Reinforcement::collect_rollouts() {
  if (!beside_ || !beside_->running()) return;
  const auto start = Clock::now();
  next_phase_ = beside_->finish();
  next_prompt_ = next_phase_->next_prompt;
  wait_seconds_ += seconds_since(start);
}

std::vector<double> Reinforcement::evaluate() {
  collect_rollouts();  // one thread at a time has the rewards
  return maker_->evaluate(live_policy(), *validation_);
}

void Reinforcement::save(int64_t step) {
  collect_rollouts();  // the weights they are made with are in no checkpoint
  learner_.save(step, state());
}

PolicyDenominators Reinforcement::denominators() const {
  PolicyDenominators d{rollouts_per_step(), 0};
  const auto begin = phase_.tokens.begin() + updates_made_ * rollouts_per_step();
  for (auto tokens = begin; tokens != begin + rollouts_per_step(); ++tokens) d.tokens += *tokens;
  d.tokens = std::max<int64_t>(1, d.tokens);
  return d;
}

RolloutBatch Reinforcement::next_batch(int64_t step) {
  const int64_t begin = updates_made_ * rollouts_per_step(), end = begin + rollouts_per_step();
  std::vector<Rollout> rollouts;
  int64_t training = 0;
  for (const Rollout& r : phase_.rollouts) {
    if (r.place < begin || r.place >= end) continue;
    rollouts.push_back(r);
    training += r.trains ? 1 : 0;
  }
  const auto step_plan = learner_.stages().step_plan(config_.train, step);
  BatchPlan plan{config_.train.sequences_per_microbatch, 0};
  at::Tensor count = at::tensor({(training + plan.per_microbatch - 1) / plan.per_microbatch}, at::kLong);
  learner_.world().all_reduce(count, parallel::ReduceOp::kMax, "micro-batches of rollouts")->wait();
  const int64_t multiple = step_plan.microbatch_multiple;
  plan.num_microbatches = std::max((std::max<int64_t>(count.item<int64_t>(), 1) + multiple - 1) / multiple * multiple, step_plan.min_microbatches);
  RolloutBatch batch = make_rollout_batch(rollouts, plan, step);
  fill_log_probs(batch);
  return batch;
}

/// Before the first update on a fresh phase the weights are those of the rollouts. Otherwise the rollouts' own log-probabilities are
/// the old ones: the same forward pass made them. Those of the reference are computed where a KL term asks for them.
void Reinforcement::fill_log_probs(RolloutBatch& batch) {
  if (updates_made_ > 0 || phase_.stale)
    for (auto& policy : batch.policies) policy.old_log_probs = policy.rollout;
  if (!has_reference()) return;
  reference_->swap();
  auto reference = log_probs(batch);
  reference_->swap();
  for (size_t m = 0; m < batch.policies.size(); ++m) batch.policies[m].reference = std::move(reference[m]);
}

std::vector<std::vector<float>> Reinforcement::log_probs(const RolloutBatch& batch) {
  LogProbRecorder recorder(rl_.temperature, batch.policies);
  (void)learner_.stages().evaluate(batch.batch.micro_batches, &recorder);
  return recorder.collect(learner_.mesh().axis("pp"));
}

bool Reinforcement::evaluates_at(int64_t step) const {
  return validation_ && (step == config_.train.steps || (config_.evaluate.every > 0 && step % config_.evaluate.every == 0));
}

void Reinforcement::report(int64_t step, const StepResult& result, const PolicyStatistics& policy, const std::vector<double>& validation) {
  if (step % config_.log.every != 0 && validation.empty()) return;
  json metrics = learner_.metrics(step, result);
  const PhaseStatistics& s = phase_.statistics;
  const auto rollouts = static_cast<double>(std::max<int64_t>(1, s.rollouts));
  metrics["reward"] = s.reward;
  metrics["reward_deviation"] = s.reward_deviation;
  for (size_t k = 0; k < s.parts.size(); ++k) metrics["reward_" + maker_->reward_names()[k]] = s.parts[k];
  metrics["reward_failed_share"] = 1 - static_cast<double>(s.usable) / rollouts;
  metrics["completion_length"] = s.length;
  metrics["truncated_share"] = static_cast<double>(s.truncated) / rollouts;
  metrics["zero_advantage_share"] = static_cast<double>(s.zero_advantage) / rollouts;
  metrics["rollouts_digest"] = s.digest;
  metrics["rollout_seconds"] = s.rollout_seconds;
  metrics["reward_seconds"] = s.reward_seconds;
  if (beside_) metrics["rollout_wait_seconds"] = std::exchange(wait_seconds_, 0);
  metrics["train_seconds"] = result.seconds;
  metrics["rollout_tokens_per_second"] = s.rollout_seconds > 0 ? static_cast<double>(s.tokens) / s.rollout_seconds : 0.0;
  if (s.resamples > 0) metrics["resamples"] = s.resamples;
  const double tokens = std::max(policy.tokens, 1.0);
  metrics["entropy"] = policy.entropy / tokens;
  metrics["clipped_share"] = policy.clipped / tokens;
  metrics["kl_rollout_train"] = policy.kl_rollout / tokens;
  metrics["largest_ratio_error"] = policy.largest_ratio;
  if (has_reference()) metrics["kl_reference"] = policy.kl_reference / tokens;
  for (size_t k = 0; k < validation.size(); ++k)
    metrics[k == 0 ? "validation_reward" : "validation_reward_" + maker_->reward_names()[k - 1]] = validation[k];
  learner_.run().write_metrics(metrics);
}

trainer::RunState Reinforcement::state() {
  trainer::RunState state;
  state.values = {{"next_prompt", next_prompt_}, {"updates_made", updates_made_}};
  if (has_reference()) reference_->list(learner_.weights(), state.ranges);
  if (updates_made_ > 0) list_phase(kPhase, phase_, live_policy(), state);
  if (next_phase_) list_phase(kNextPhase, *next_phase_, live_policy(), state);
  return state;
}

void Reinforcement::read_state(checkpoint::CheckpointReader& reader, const json& values) {
  next_prompt_ = values.at("next_prompt").get<int64_t>();
  updates_made_ = values.at("updates_made").get<int64_t>();
  if (has_reference()) reference_->read(learner_.weights(), reader);
  if (updates_made_ > 0) phase_ = read_phase(kPhase, reader, values, live_policy());
  if (values.contains(kNextPhase)) next_phase_ = read_phase(kNextPhase, reader, values, live_policy());
}

}  // namespace tessera::rl
