#include "data/loader.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "core/error.h"

namespace tessera::data {

namespace {
constexpr size_t kAhead = 2;  // steps kept ready

void check(const StepPlan& plan) {
  if (plan.sequences_per_step < 1)
    throw ConfigError(tessera::detail::concat(
        "train.sequences_per_step = ", plan.sequences_per_step, " must be at least 1"));
  if (plan.sequences_per_microbatch < 1) {
    throw ConfigError(tessera::detail::concat(
        "train.sequences_per_microbatch = ", plan.sequences_per_microbatch, " must be at least 1"));
  }
  TESSERA_CHECK(plan.dp_size >= 1 && plan.dp_rank >= 0 && plan.dp_rank < plan.dp_size, "dp rank ",
                plan.dp_rank, " of ", plan.dp_size);
  if (plan.ramp_steps > 0 && (plan.ramp_from < 1 || plan.ramp_from > plan.sequences_per_step)) {
    throw ConfigError(tessera::detail::concat("train.batch_ramp.from = ", plan.ramp_from,
                                              " must be in [1, train.sequences_per_step = ",
                                              plan.sequences_per_step, "]"));
  }
  TESSERA_CHECK(plan.microbatch_multiple >= 1 && plan.first_step >= 0, "a step plan");
}

template <typename ReadRow>
std::vector<MicroBatch> fill(int64_t begin, int64_t end, int64_t per_batch, int64_t count,
                             const ReadRow& read) {
  std::vector<MicroBatch> batches;
  std::vector<Row> rows;
  for (int64_t b = 0; b < count; ++b) {
    rows.clear();
    for (int64_t i = begin + b * per_batch; i < std::min(end, begin + (b + 1) * per_batch); ++i)
      rows.push_back(read(i));
    batches.push_back(make_micro_batch(rows));
  }
  return batches;
}
}  // namespace

std::pair<int64_t, int64_t> deal_rows(int64_t rows, int rank, int size) {
  return {rows * rank / size, rows * (rank + 1) / size};
}

int64_t rows_of_step(const StepPlan& plan, int64_t step) {
  if (step >= plan.ramp_steps) return plan.sequences_per_step;
  return plan.ramp_from + (plan.sequences_per_step - plan.ramp_from) * step / plan.ramp_steps;
}

int64_t rows_before(const StepPlan& plan, int64_t step) {
  const int64_t ramp = std::min(step, plan.ramp_steps);
  int64_t rows = (step - ramp) * plan.sequences_per_step;
  for (int64_t s = 0; s < ramp; ++s) rows += rows_of_step(plan, s);
  return rows;
}

int64_t num_microbatches(const StepPlan& plan, int64_t rows) {
  const int64_t most = (rows + plan.dp_size - 1) / plan.dp_size;
  const int64_t needed = (most + plan.sequences_per_microbatch - 1) / plan.sequences_per_microbatch;
  const int64_t count = std::max(needed, plan.min_microbatches);
  return (count + plan.microbatch_multiple - 1) / plan.microbatch_multiple *
         plan.microbatch_multiple;
}

StepBatch make_step(const Dataset& dataset, const StepPlan& plan, int64_t step) {
  const int64_t rows = rows_of_step(plan, step), first = rows_before(plan, step);
  const auto [begin, end] = deal_rows(rows, plan.dp_rank, plan.dp_size);
  StepBatch batch;
  batch.step = step;
  batch.micro_batches = fill(first + begin, first + end, plan.sequences_per_microbatch,
                             num_microbatches(plan, rows),
                             [&](int64_t i) { return dataset.row(i); });
  for (const MicroBatch& micro_batch : batch.micro_batches) {
    batch.num_tokens += static_cast<int64_t>(micro_batch.tokens.size());
    batch.num_targets += static_cast<int64_t>(micro_batch.targets.size());
  }
  return batch;
}

std::vector<MicroBatch> validation_batches(const Dataset& dataset, int64_t sequences_per_microbatch,
                                           int dp_rank, int dp_size) {
  const StepPlan plan{.sequences_per_step = dataset.num_rows(),
                      .sequences_per_microbatch = sequences_per_microbatch,
                      .dp_rank = dp_rank,
                      .dp_size = dp_size};
  check(plan);
  const auto [begin, end] = deal_rows(dataset.num_rows(), dp_rank, dp_size);
  return fill(begin, end, sequences_per_microbatch, num_microbatches(plan, dataset.num_rows()),
              [&](int64_t i) { return dataset.row_in_order(i); });
}

struct StepLoader::Impl {
  const Dataset& dataset;
  StepPlan plan;
  std::mutex mutex;
  std::condition_variable_any changed;
  std::deque<StepBatch> ready;
  std::exception_ptr error;
  std::jthread thread;  // last: it uses the rest

  Impl(const Dataset& dataset_, const StepPlan& plan_) : dataset(dataset_), plan(plan_) {}

  void run(const std::stop_token& stop) {
    for (int64_t step = plan.first_step; !stop.stop_requested(); ++step) {
      try {
        StepBatch batch = make_step(dataset, plan, step);
        std::unique_lock lock(mutex);
        ready.push_back(std::move(batch));
        changed.notify_all();
        changed.wait(lock, stop, [&] { return ready.size() < kAhead; });
      } catch (...) {
        const std::lock_guard lock(mutex);
        error = std::current_exception();
        changed.notify_all();
        return;
      }
    }
  }
};

StepLoader::StepLoader(const Dataset& dataset, const StepPlan& plan)
    : impl_(std::make_unique<Impl>(dataset, plan)) {
  check(plan);
  impl_->thread =
      std::jthread([impl = impl_.get()](const std::stop_token& stop) { impl->run(stop); });
}

StepLoader::~StepLoader() = default;

StepBatch StepLoader::next() {
  std::unique_lock lock(impl_->mutex);
  impl_->changed.wait(lock, [&] { return !impl_->ready.empty() || impl_->error; });
  if (impl_->ready.empty()) std::rethrow_exception(impl_->error);
  StepBatch batch = std::move(impl_->ready.front());
  impl_->ready.pop_front();
  impl_->changed.notify_all();
  return batch;
}

}  // namespace tessera::data
