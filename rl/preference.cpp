#include "rl/preference.h"

#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/progress.h"
#include "core/random.h"
#include "core/text.h"
#include "data/loader.h"
#include "data/prompt.h"
#include "data/sample.h"

namespace tessera::rl {

namespace {

using nlohmann::json;

/// The line that a pair's answer makes as a sample of fine-tuning.
data::Json with_answer(const data::Json& line, const char* key, bool chat, const std::string& where) {
  if (!line.contains(key)) throw ConfigError(where + ": needs 'prompt' or 'messages', 'chosen' and 'rejected'");
  const data::Json& answer = line[key];
  data::Json sample = line;
  for (const char* other : {"chosen", "rejected", "prompt"}) sample.erase(other);
  if (!line.contains("messages") && !chat && answer.is_string() && line.contains("prompt") && line["prompt"].is_string()) {
    sample["prompt"] = line["prompt"];
    sample["completion"] = answer;
    return sample;
  }
  data::Json messages = data::Json::array();
  if (line.contains("messages")) messages = line["messages"];
  else if (line.contains("prompt") && line["prompt"].is_array()) messages = line["prompt"];
  else if (line.contains("prompt")) messages.push_back({{"role", "user"}, {"content", line["prompt"]}});
  if (!messages.is_array() || (!answer.is_string() && !answer.is_array())) throw ConfigError(where + ": '" + key + "' must be a text or a list of messages");
  if (answer.is_string()) {
    messages.push_back({{"role", "assistant"}, {"content", answer}});
  } else {
    for (const auto& message : answer) messages.push_back(message);
  }
  sample["messages"] = messages;
  return sample;
}

/// The last run of targets: the answer with the token that ends it.
std::pair<size_t, size_t> answer_of(const data::EncodedSample& sample) {
  size_t end = sample.tokens.size();
  while (end > 0 && sample.loss_mask[end - 1] == 0) --end;
  size_t begin = end;
  while (begin > 0 && sample.loss_mask[begin - 1] != 0) --begin;
  return {begin, end};
}

PreferencePair read_pair(const data::JsonLine& line, const data::Tokenizer& tokenizer, const data::ChatTemplate* chat_template) {
  PreferencePair pair;
  for (const char* key : {"chosen", "rejected"}) {
    const auto sample = data::encode_sample(with_answer(line.value, key, chat_template != nullptr, line.where), tokenizer, chat_template, line.where);
    const auto [begin, end] = answer_of(sample);
    const auto at = [&](size_t i) { return sample.tokens.begin() + static_cast<std::ptrdiff_t>(i); };
    const std::vector<int32_t> prompt(at(0), at(begin));
    const bool chosen = std::string_view(key) == "chosen";
    if (prompt.empty()) throw ConfigError(line.where + ": the prompt is empty");
    if (!chosen && prompt != pair.prompt) throw ConfigError(line.where + ": 'chosen' and 'rejected' must answer the same prompt");
    pair.prompt = prompt;
    (chosen ? pair.chosen : pair.rejected).assign(at(begin), at(end));
  }
  return pair;
}

Rollout as_rollout(const PreferencePair& pair, int64_t place, bool chosen) {
  Rollout r;
  r.prompt = place;
  r.index = chosen ? 0 : 1;
  r.prompt_tokens = pair.prompt;
  r.tokens = chosen ? pair.chosen : pair.rejected;
  r.log_probs.assign(r.tokens.size(), 0.0f);
  return r;
}

double log_sigmoid(double x) { return x < 0 ? x - std::log1p(std::exp(x)) : -std::log1p(std::exp(-x)); }
double sigmoid(double x) { return std::exp(log_sigmoid(x)); }

}  // namespace

void DpoConfig::validate() const {
  if (!(std::isfinite(beta) && beta > 0)) throw ConfigError(detail::concat("dpo.beta = ", beta, " must be more than 0"));
  if (!(label_smoothing >= 0 && label_smoothing < 0.5)) throw ConfigError(detail::concat("dpo.label_smoothing = ", label_smoothing, " must be in [0, 0.5)"));
}

std::vector<PreferencePair> read_pairs(const std::vector<data::SourceConfig>& sources, const data::Tokenizer& tokenizer,
                                       const data::ChatTemplate* chat_template, std::string& hash) {
  std::vector<PreferencePair> pairs;
  for (const auto& source : sources) {
    for (const auto& line : data::read_jsonl(source.path)) {
      pairs.push_back(read_pair(line, tokenizer, chat_template));
      hash = std::to_string(hash64(hash + line.value.dump()));
    }
  }
  return pairs;
}

double PairObjective::weigh(size_t microbatch, const float* log_probs, const float*, float* weights) {
  const PolicyBatch& batch = batches_[microbatch];
  double loss = 0;
  int64_t begin = 0;
  for (size_t i = 0; i + 1 < batch.lengths.size(); i += 2) {
    const int64_t middle = begin + batch.lengths[i], end = middle + batch.lengths[i + 1];
    double rewards[2] = {0, 0};
    for (int64_t t = begin; t < end; ++t) rewards[t < middle ? 0 : 1] += config_.beta * (double{log_probs[t]} - batch.reference[static_cast<size_t>(t)]);
    const double margin = rewards[0] - rewards[1], smoothing = config_.label_smoothing, share = 1.0 / static_cast<double>(pairs_);
    loss -= share * ((1 - smoothing) * log_sigmoid(margin) + smoothing * log_sigmoid(-margin));
    // d loss / d margin is -share (1 - s - sigmoid(margin)); weights are of -log p.
    const auto weight = static_cast<float>(share * config_.beta * (1 - smoothing - sigmoid(margin)));
    for (int64_t t = begin; t < end; ++t) weights[t] = t < middle ? weight : -weight;
    statistics_.pairs += 1;
    statistics_.right += margin > 0 ? 1 : 0;
    statistics_.chosen += rewards[0];
    statistics_.rejected += rewards[1];
    begin = end;
  }
  return loss;
}

PairStatistics PairObjective::collect(parallel::Communicator& world) const {
  at::Tensor sums = at::tensor({statistics_.pairs, statistics_.right, statistics_.chosen, statistics_.rejected}, at::kDouble);
  world.all_reduce(sums, parallel::ReduceOp::kSum, "the step's pairs")->wait();
  const double* v = sums.const_data_ptr<double>();
  return {v[0], v[1], v[2], v[3]};
}

Preference::Preference(trainer::TrainerConfig config, DpoConfig dpo, trainer::TrainOptions options, parallel::Communicator& world)
    : learner_(std::move(config), std::move(options), world), config_(learner_.config()), dpo_(dpo) {
  if (config_.mtp.loss_weight > 0) throw ConfigError("mtp.loss_weight must be 0 with task: dpo, whose objective is on the next token alone");
}

void Preference::load() {
  const auto folder = config_.model.tokenizer_folder();
  tokenizer_ = std::make_unique<data::Tokenizer>(data::Tokenizer::load(folder));
  chat_template_ = data::ChatTemplate::load_if_present(folder);
  const data::ChatTemplate* chat = chat_template_ ? &*chat_template_ : nullptr;
  hash_ = std::to_string(config_.seed);
  pairs_ = read_pairs(config_.data.train, *tokenizer_, chat, hash_);
  std::string unused;
  if (!config_.data.validation.empty()) validation_ = read_pairs(config_.data.validation, *tokenizer_, chat, unused);
  learner_.load_model(*tokenizer_);
  reference_ = std::make_unique<trainer::WeightSnapshot>(learner_.stages());
  log::info("pairs: ", pairs_.size());
}

trainer::TrainEnd Preference::train() {
  load();
  int64_t step = learner_.resume(hash_, [this](auto& reader, const json&) { reference_->read(learner_.weights(), reader); });
  learner_.begin(step);
  const auto state = [&] {
    trainer::RunState kept;
    reference_->list(learner_.weights(), kept.ranges);
    return kept;
  };
  Progress progress(config_.name, config_.train.steps, "steps", learner_.shows_progress(), step);
  int64_t saved = step;
  bool stop = false;
  while (step < config_.train.steps && !stop) {
    std::vector<int64_t> numbers;
    const auto plan = learner_.stages().step_plan(config_.train, step);
    const auto count = static_cast<int64_t>(pairs_.size()), first = data::rows_before(plan, step);
    for (int64_t i = first; i < first + data::rows_of_step(plan, step); ++i)
      numbers.push_back(static_cast<int64_t>(permute_index(config_.seed, static_cast<uint64_t>(i / count), static_cast<uint64_t>(i % count), static_cast<uint64_t>(count))));
    RolloutBatch batch = make_batch(pairs_, numbers, step);
    PairObjective objective(dpo_, static_cast<int64_t>(numbers.size()), batch.policies);
    const trainer::StepResult result = learner_.step(batch.batch, &objective);
    const PairStatistics s = objective.collect(learner_.world());
    stop = result.stop;
    learner_.check_saving();
    ++step;
    const bool last = step == config_.train.steps, due = config_.evaluate.every > 0 && step % config_.evaluate.every == 0;
    json metrics = learner_.metrics(step, result);
    metrics["preference_accuracy"] = s.right / s.pairs;
    metrics["reward_chosen"] = s.chosen / s.pairs;
    metrics["reward_rejected"] = s.rejected / s.pairs;
    metrics["reward_margin"] = (s.chosen - s.rejected) / s.pairs;
    if (!validation_.empty() && (due || last)) {
      const Validation v = evaluate();
      metrics["validation_loss"] = v.loss;
      metrics["validation_preference_accuracy"] = v.accuracy;
    }
    if (step % config_.log.every == 0 || metrics.contains("validation_loss")) learner_.run().write_metrics(metrics);
    progress.update(step, "loss " + short_number(result.loss) + "  right " + short_number(s.right / s.pairs));
    if (stop || last || (config_.checkpoint.every > 0 && step % config_.checkpoint.every == 0)) {
      learner_.save(step, state());
      saved = step;
    }
  }
  progress.finish();
  if (saved < step) learner_.save(step, state());
  return learner_.finish(step);
}

RolloutBatch Preference::make_batch(const std::vector<PreferencePair>& pairs, const std::vector<int64_t>& numbers, int64_t step) {
  const parallel::Communicator& dp = learner_.mesh().axis("dp");
  const auto [begin, end] = data::deal_rows(static_cast<int64_t>(numbers.size()), dp.rank(), dp.size());
  std::vector<Rollout> answers;
  for (int64_t i = begin; i < end; ++i)
    for (const bool chosen : {true, false}) answers.push_back(as_rollout(pairs[static_cast<size_t>(numbers[static_cast<size_t>(i)])], i, chosen));
  const auto plan = learner_.stages().step_plan(config_.train, step);
  RolloutBatch batch = make_rollout_batch(answers, {2 * config_.train.sequences_per_microbatch, data::num_microbatches(plan, static_cast<int64_t>(numbers.size()))}, step);
  LogProbRecorder recorder(1.0, batch.policies);
  reference_->swap();
  (void)learner_.stages().evaluate(batch.batch.micro_batches, &recorder);
  reference_->swap();
  auto reference = recorder.collect(learner_.mesh().axis("pp"));
  for (size_t m = 0; m < batch.policies.size(); ++m) batch.policies[m].reference = std::move(reference[m]);
  return batch;
}

Preference::Validation Preference::evaluate() {
  const auto busy = learner_.world().announce("evaluating");
  std::vector<int64_t> numbers(validation_.size());
  std::iota(numbers.begin(), numbers.end(), 0);
  const RolloutBatch batch = make_batch(validation_, numbers, 0);
  PairObjective objective(dpo_, static_cast<int64_t>(numbers.size()), batch.policies);
  at::Tensor loss = at::tensor({learner_.stages().evaluate(batch.batch.micro_batches, &objective)}, at::kDouble);
  learner_.world().all_reduce(loss, parallel::ReduceOp::kSum, "evaluation")->wait();
  const PairStatistics s = objective.collect(learner_.world());
  return {loss.item<double>(), s.right / s.pairs};
}

}  // namespace tessera::rl
