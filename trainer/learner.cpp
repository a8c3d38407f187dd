#include "trainer/learner.h"

#include <ATen/ops/tensor.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <ctime>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>

#include "checkpoint/manifest.h"
#include "checkpoint/writer.h"
#include "core/clock.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/text.h"
#include "model/hf_folder.h"
#include "parallel/text_exchange.h"
#include "trainer/lr_schedule.h"
#include "trainer/resume.h"

namespace tessera::trainer {

namespace {

using nlohmann::json;

int64_t peak_memory_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

/// From the start of the process, loading of libraries included.
double seconds_since_process_start() {
  std::ifstream file("/proc/self/stat");
  std::string stat;
  std::getline(file, stat);
  std::istringstream fields(stat.substr(stat.rfind(')') + 2));
  std::string field;
  for (int i = 3; i <= 22 && fields >> field; ++i) {  // field 22: start time in ticks since boot
  }
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec) -
         std::strtod(field.c_str(), nullptr) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

model::Recompute recompute_of(const std::string& name) {
  return name == "full" ? model::Recompute::kFull : name == "selective" ? model::Recompute::kSelective : model::Recompute::kNone;
}

}  // namespace

Learner::Learner(TrainerConfig config, TrainOptions options, parallel::Communicator& world)
    : config_(std::move(config)), options_(std::move(options)), world_(world), mesh_(world, config_.parallel), run_(config_, world) {}

void Learner::load_model(const data::Tokenizer& tokenizer) {
  const ModelSource& source = config_.model;
  const auto busy = world_.announce("loading the model");
  const auto model = source.load_config();
  check_model(model, tokenizer);
  stages_ = std::make_unique<Stages>(model, mesh_, config_.parallel, trains_mtp(), config_.log.communication ? &passages_ : nullptr);
  if (trains_adapters()) {
    std::set<std::string> names;
    std::string text_line;
    for (auto* stage : stages_->models()) names.merge(model::add_adapters(*stage, *source.lora, config_.seed));
    for (const auto& text : parallel::all_gather_text(world_, join({names.begin(), names.end()}, "\n")))
      for (std::istringstream lines(text); std::getline(lines, text_line);) names.insert(text_line);
    model::check_targets(names, *source.lora);
  }
  for (auto* stage : stages_->models()) {
    stage->set_recompute(recompute_of(config_.train.recompute));
    if (const auto recipe = config_.precision.recipe()) stage->use_fp8(*recipe);
    stage->use_wire(config_.precision.wire());
    if (source.lora && source.lora->base == "fp8") stage->keep_frozen_in_fp8();
  }
  stages_->make_trainable(trains_adapters(), config_.precision.values());
  fill_weights();
  stages_->adopt_values();
  if (config_.checkpoint.background) writer_ = std::make_unique<checkpoint::BackgroundWriter>(world_);
  optimizer_ = std::make_unique<AdamW>(stages_->buckets(), stages_->weights(trains_adapters()), config_.optimizer, config_.seed);
  if (writer_) writer_->prepare(owned_ranges());
  balancer_ = std::make_unique<moe::LoadBalancer>(stages_->routers(), stages_->moe_layers(), model.moe.num_experts, config_.moe.bias_update_rate);
  if (world_.rank() == 0) {
    make_directories(run_.model());
    model::copy_companions(source.tokenizer_folder(), run_.model());
    write_file_atomically(run_.model() / "config.json", model.raw.dump(2) + "\n");
    write_file_atomically(run_.path() / "recipe.yaml", options_.recipe_yaml);
  }
  int64_t owned = 0;
  for (const auto* buckets : stages_->buckets()) owned += buckets->num_owned();
  at::Tensor total = at::tensor({owned}, at::kLong);
  world_.all_reduce(total)->wait();
  log::info("model: ", total.item<int64_t>(), " trained parameters; mesh ", mesh_.describe());
  if (world_.size() > 1)
    for (const auto& line : stages_->table()) log::info("  ", line);
}

void Learner::fill_weights() {
  const ModelSource& source = config_.model;
  if (source.path.empty()) {
    for (auto* stage : stages_->models()) stage->initialize(config_.seed);
    return;
  }
  model::load_weights(stages_->models(), source.path, world_);
  if (trains_adapters()) base_hash_ = parallel::broadcast_text(world_, world_.rank() == 0 ? model::hash_weights(source.path) : "");
}

void Learner::check_model(const model::ModelConfig& model, const data::Tokenizer& tokenizer) const {
  const bool wants_routers = config_.moe.bias_update_rate > 0 || config_.moe.sequence_balance_loss > 0 || config_.moe.z_loss > 0;
  if (wants_routers && !model.has_experts())
    throw ConfigError("the moe section balances experts, and the model (" + model.model_type + ") has none; set its keys to 0");
  if (config_.moe.bias_update_rate > 0 && !model.moe.correction_bias)
    throw ConfigError("moe.bias_update_rate moves a bias that the routers of " + model.model_type +
                      " do not have; set it to 0, and moe.sequence_balance_loss instead");
  if (trains_mtp() && model.num_mtp_modules == 0)
    throw ConfigError("mtp.loss_weight trains MTP modules, and the model has none; set it to 0");
  if (tokenizer.vocab_size() > model.vocab_size)
    throw ConfigError(detail::concat("the tokenizer has ", tokenizer.vocab_size(), " tokens, the model's vocab_size is ",
                                     model.vocab_size, "; use the tokenizer that belongs to the model"));
  if (config_.task != "grpo" && config_.task != "dpo" && config_.data.sequence_length > model.max_position_embeddings)
    log::warn("data.sequence_length = ", config_.data.sequence_length, " is more than the model's max_position_embeddings = ",
              model.max_position_embeddings, ": longer documents would train positions that it does not know");
}

int64_t Learner::resume(const std::string& data_hash, const std::function<void(checkpoint::CheckpointReader&, const json&)>& read_more) {
  data_hash_ = data_hash;
  auto found = find_resume_point(run_.checkpoints(), options_.resume, world_);
  if (!found) return 0;
  check_resumable(found->manifest.state, options_.recipe_keys, data_hash_, base_hash_, found->folder.string());
  checkpoint::CheckpointReader reader(found->folder, found->manifest);
  optimizer_->load(stages_->weights(trains_adapters()), reader);
  for (const auto& weight : stages_->constants(trains_adapters(), false)) reader.read("weight", weight.name, 0, weight.view().view({-1}));
  const json& state = found->manifest.state;
  updates_ = state.at("updates").get<int64_t>();
  skipped_total_ = state.at("skipped_steps").get<int64_t>();
  if (read_more) read_more(reader, state.value("run", json::object()));
  log::info("resuming from ", found->folder.string());
  return found->manifest.step;
}

void Learner::begin(int64_t step) {
  run_.begin(step);
  if (config_.log.communication) communication_log_ = std::make_unique<CommunicationLog>(run_.path(), world_.rank(), step);
  run_.update_run_json({{"state", "running"}, {"mesh", mesh_.describe()}, {"world_size", world_.size()},
                        {"startup_seconds", seconds_since_process_start()}});
}

StepResult Learner::step(const data::StepBatch& batch, Objective* objective) {
  const auto start = Clock::now();
  const auto traffic_before = world_.traffic();
  passages_.clear();
  StepResult result;
  result.lr = config_.optimizer.lr * lr_factor(config_.lr_schedule, batch.step, config_.train.steps);

  const StepCounts counts = count_step(batch, trains_mtp() ? stages_->config().num_mtp_modules : 0, world_, mesh_.size("pp"));
  result.targets = counts.targets;
  result.tokens = counts.tokens;

  for (auto* buckets : stages_->buckets()) buckets->zero_gradients();
  balancer_->begin_step();
  LossTerms terms = loss_terms(counts, config_.moe, config_.mtp, !balancer_->empty());
  terms.objective = objective;
  const StepLoss loss = stages_->forward_backward(batch, terms);
  for (auto* buckets : stages_->buckets()) buckets->finish_reduction();
  result.loads = balancer_->collect(world_);

  // One exchange tells every rank the losses, the norm and whether any rank was asked to stop.
  at::Tensor sums = at::tensor({loss.cross_entropy, optimizer_->local_sum_of_squares(), options_.stop_requested() ? 1.0 : 0.0,
                                loss.mtp, balancer_->balance_loss(), balancer_->z_loss()}, at::kDouble);
  world_.all_reduce(sums, parallel::ReduceOp::kSum, "the step's losses and norm")->wait();
  const double* sum = sums.const_data_ptr<double>();
  result.loss = sum[0];
  result.grad_norm = std::sqrt(sum[1]);
  result.stop = sum[2] > 0;
  result.mtp_loss = sum[3];
  result.balance_loss = sum[4];
  result.z_loss = sum[5];
  update(batch, result);
  result.seconds = seconds_since(start);
  result.traffic = traffic_since(traffic_before, world_.traffic());
  if (communication_log_) communication_log_->write({batch.step + 1, result.traffic, std::exchange(passages_, {})});
  return result;
}

bool StepResult::finite() const {
  return std::isfinite(loss) && std::isfinite(grad_norm) && std::isfinite(mtp_loss + balance_loss + z_loss);
}

void Learner::update(const data::StepBatch& batch, StepResult& result) {
  if (writer_) {
    const auto start = Clock::now();
    writer_->wait_until_copied();
    if (save_seconds_ > 0) save_seconds_ += seconds_since(start);  // a save is under way, or was since the last line
  }
  if (result.finite()) {
    const double limit = config_.optimizer.grad_clip;
    // The small constant is torch.nn.utils.clip_grad_norm_'s.
    const double scale = limit > 0 ? std::min(1.0, limit / (result.grad_norm + 1e-6)) : 1.0;
    optimizer_->step(result.lr, ++updates_, scale);
    balancer_->update(result.loads);
    skipped_in_a_row_ = 0;
    return;
  }
  result.skipped = true;
  ++skipped_total_;
  log::warn("step ", batch.step + 1, ": loss ", result.loss, ", gradient norm ", result.grad_norm, ": update skipped");
  if (++skipped_in_a_row_ >= config_.train.max_nonfinite_steps)
    throw Error(detail::concat(skipped_in_a_row_, " steps in a row had a loss or gradient that is not finite; lower "
                               "optimizer.lr, or look at the data of step ", batch.step + 1));
}

std::vector<checkpoint::OwnedRange> Learner::owned_ranges() const {
  auto ranges = optimizer_->owned_ranges(stages_->weights(trains_adapters()));
  for (const auto& weight : stages_->constants(trains_adapters(), true)) ranges.push_back({"weight", weight.name, 0, weight.view().view({-1})});
  return ranges;
}

void Learner::save(int64_t step, const RunState& state) {
  const auto start = Clock::now();
  write(step, state);
  save_seconds_ += seconds_since(start);
}

void Learner::write(int64_t step, const RunState& more) {
  const json state = {{"updates", updates_}, {"skipped_steps", skipped_total_}, {"recipe", options_.recipe_keys},
                      {"data_hash", data_hash_}, {"base_hash", base_hash_}, {"mesh", mesh_.describe()},
                      {"base_model", config_.model.path}, {"mtp_modules", stages_->config().num_mtp_modules}, {"run", more.values}};
  auto ranges = owned_ranges();
  ranges.insert(ranges.end(), more.ranges.begin(), more.ranges.end());
  if (writer_) return writer_->save(run_.checkpoints(), step, std::move(ranges), state, config_.checkpoint.keep);
  checkpoint::write_checkpoint(run_.checkpoints(), step, ranges, state, world_);
  if (world_.rank() == 0) checkpoint::apply_retention(run_.checkpoints(), config_.checkpoint.keep);
}

void Learner::check_saving() {
  if (writer_) writer_->check();
}

TrainEnd Learner::finish(int64_t step) {
  if (writer_) writer_->finish();
  const bool finished = step >= config_.train.steps;
  const auto peaks = parallel::all_gather_text(world_, std::to_string(peak_memory_bytes()));
  int64_t peak = 0;
  for (const auto& text : peaks) peak = std::max<int64_t>(peak, std::stoll(text));
  run_.update_run_json({{"state", finished ? "finished" : "stopped"}, {"step", step}, {"peak_memory_bytes_per_rank", peak},
                        {"skipped_steps", skipped_total_}});
  log::info(finished ? "finished" : "stopped as asked; resume with the same command", " at step ", step,
            "; peak memory per rank ", format_bytes(peak), "; checkpoint ",
            (run_.checkpoints() / checkpoint::step_folder_name(step)).string());
  return finished ? TrainEnd::kFinished : TrainEnd::kStopped;
}

json Learner::metrics(int64_t step, const StepResult& r) {
  json metrics = {{"step", step}, {"loss", r.loss}, {"lr", r.lr}, {"grad_norm", r.grad_norm}, {"step_seconds", r.seconds},
                  {"tokens", r.tokens}, {"target_tokens", r.targets},
                  {"tokens_per_second", static_cast<double>(r.tokens) / r.seconds}};
  if (!r.traffic.empty()) metrics["communication"] = to_json(r.traffic, true);
  double exposed = 0;
  for (const auto& [axis, traffic] : r.traffic) exposed += traffic.exposed_seconds;
  metrics["exposed_communication_seconds"] = exposed;
  if (save_seconds_ > 0) metrics["save_seconds"] = std::exchange(save_seconds_, 0);
  if (r.skipped) metrics["skipped"] = true;
  if (trains_mtp()) metrics["mtp_loss"] = r.mtp_loss;
  if (!r.loads.empty()) add_moe_metrics(r, metrics);
  return metrics;
}

void Learner::add_moe_metrics(const StepResult& r, json& metrics) const {
  if (config_.moe.sequence_balance_loss > 0) metrics["balance_loss"] = r.balance_loss;
  if (config_.moe.z_loss > 0) metrics["z_loss"] = r.z_loss;
  double violation = 0, entropy = 1;
  json layers = json::array();
  for (const moe::LayerLoad& load : r.loads) {
    violation = std::max(violation, load.max_violation());
    entropy = std::min(entropy, load.entropy());
    layers.push_back({{"max_violation", load.max_violation()}, {"entropy", load.entropy()}, {"counts", load.counts}});
  }
  metrics["moe_max_violation"] = violation;
  metrics["moe_entropy"] = entropy;
  metrics["moe_layers"] = layers;
}

}  // namespace tessera::trainer
