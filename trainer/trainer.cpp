#include "trainer/trainer.h"

#include <ATen/Parallel.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <utility>

#include "core/log.h"
#include "core/progress.h"
#include "core/text.h"

namespace tessera::trainer {

Trainer::Trainer(TrainerConfig config, TrainOptions options, parallel::Communicator& world)
    : learner_(std::move(config), std::move(options), world), config_(learner_.config()) {}

TrainEnd Trainer::train() {
  load_data();
  learner_.load_model(*data_.tokenizer);
  int64_t step = learner_.resume(data_.train->hash());
  learner_.begin(step);
  data::StepLoader loader(*data_.train, learner_.stages().step_plan(config_.train, step));
  Progress progress(config_.name, config_.train.steps, "steps", learner_.shows_progress(), step);
  int64_t saved = step;
  bool stop = false;
  while (step < config_.train.steps && !stop) {
    const StepResult result = learner_.step(loader.next());
    stop = result.stop;
    learner_.check_saving();
    ++step;
    const bool last = step == config_.train.steps;
    const bool due = config_.evaluate.every > 0 && step % config_.evaluate.every == 0;
    const double validation_loss = data_.validation != nullptr && (due || last) ? evaluate() : NAN;
    report(step, result, validation_loss);
    progress.update(step, "loss " + short_number(result.loss) + "  " +
                              short_number(static_cast<double>(result.tokens) / result.seconds) + " tokens/s");
    if (stop || last || (config_.checkpoint.every > 0 && step % config_.checkpoint.every == 0)) {
      learner_.save(step);
      saved = step;
    }
  }
  progress.finish();
  if (saved < step) learner_.save(step);
  return learner_.finish(step);
}

void Trainer::load_data() {
  auto& world = learner_.world();
  const auto busy = world.announce("preparing data");
  data_ = load_datasets(config_, {.rank = world.rank(), .size = world.size(), .threads = at::get_num_threads(),
                                  .barrier = [&world] { world.barrier(); }},
                        learner_.shows_progress());
  log::info("training data: ", data_.train->num_rows(), " rows, ", data_.train->num_tokens(), " tokens");
}

double Trainer::evaluate() {
  auto& world = learner_.world();
  const auto busy = world.announce("evaluating");
  const parallel::Communicator& dp = learner_.mesh().axis("dp");
  const auto batches = data::validation_batches(*data_.validation, config_.train.sequences_per_microbatch, dp.rank(), dp.size());
  double count = 0;
  for (const auto& micro : batches) count += static_cast<double>(micro.targets.size());
  at::Tensor sums = at::tensor({learner_.stages().evaluate(batches), learner_.mesh().coordinate("pp") == 0 ? count : 0.0}, at::kDouble);
  world.all_reduce(sums, parallel::ReduceOp::kSum, "evaluation")->wait();
  return sums[1].item<double>() > 0 ? sums[0].item<double>() / sums[1].item<double>() : NAN;
}

void Trainer::report(int64_t step, const StepResult& result, double validation_loss) {
  if (step % config_.log.every != 0 && std::isnan(validation_loss)) return;
  auto metrics = learner_.metrics(step, result);
  if (!std::isnan(validation_loss)) metrics["validation_loss"] = validation_loss;
  learner_.run().write_metrics(metrics);
}

}  // namespace tessera::trainer
