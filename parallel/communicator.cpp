#include "parallel/communicator.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "core/error.h"

namespace tessera::parallel {

namespace {

using Clock = std::chrono::steady_clock;

double seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

int64_t bytes_of(const at::Tensor& tensor) { return tensor.numel() * static_cast<int64_t>(tensor.element_size()); }

void check_contiguous(const at::Tensor& tensor) { TESSERA_CHECK(tensor.is_contiguous(), "a contiguous tensor is needed"); }

/// `whole` is `count` times as long as `part`.
void check_parts(const at::Tensor& whole, const at::Tensor& part, int count) {
  check_contiguous(whole);
  check_contiguous(part);
  TESSERA_CHECK(whole.numel() == part.numel() * count && whole.scalar_type() == part.scalar_type(), "sizes or types differ: ",
                whole.sizes(), " is not ", count, " times ", part.sizes());
}

int64_t total(const std::vector<int64_t>& counts) { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }

class DoneWork final : public Work {
 public:
  void wait() override {}
  bool done() override { return true; }
};

/// Tells the ledger how long its operation took and was waited for.
class CountedWork final : public Work {
 public:
  CountedWork(WorkPtr work, std::shared_ptr<TrafficLedger> ledger, std::string axis)
      : work_(std::move(work)), ledger_(std::move(ledger)), axis_(std::move(axis)), begin_(Clock::now()) {}

  void wait() override {
    if (counted_) return work_->wait();
    const auto begin = Clock::now();
    work_->wait();
    ledger_->waited(axis_, begin, Clock::now());
    ledger_->was_active(axis_, begin_, work_->finished());
    counted_ = true;
  }
  bool done() override { return work_->done(); }
  Clock::time_point finished() override { return work_->finished(); }

 private:
  WorkPtr work_;
  std::shared_ptr<TrafficLedger> ledger_;
  std::string axis_;
  Clock::time_point begin_;
  bool counted_ = false;
};

}  // namespace

void TrafficLedger::sent(const std::string& axis, int64_t bytes) {
  const std::lock_guard lock(mutex_);
  Traffic& traffic = entries_[axis].traffic;
  ++traffic.operations;
  traffic.bytes += bytes;
}

void TrafficLedger::waited(const std::string& axis, TimePoint begin, TimePoint end) {
  const std::lock_guard lock(mutex_);
  entries_[axis].traffic.exposed_seconds += seconds(end - begin);
}

void TrafficLedger::was_active(const std::string& axis, TimePoint begin, TimePoint end) {
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_[axis];
  begin = std::max(begin, entry.active_until);
  if (end <= begin) return;
  entry.traffic.active_seconds += seconds(end - begin);
  entry.active_until = end;
}

std::map<std::string, Traffic> TrafficLedger::read() const {
  const std::lock_guard lock(mutex_);
  std::map<std::string, Traffic> traffic;
  for (const auto& [axis, entry] : entries_) traffic[axis] = entry.traffic;
  return traffic;
}

Communicator::Communicator(std::string axis, std::shared_ptr<TrafficLedger> ledger)
    : axis_(std::move(axis)), ledger_(ledger ? std::move(ledger) : std::make_shared<TrafficLedger>()) {}

WorkPtr Communicator::counted(WorkPtr work, int64_t bytes) {
  ledger_->sent(axis_, bytes);
  return std::make_unique<CountedWork>(std::move(work), ledger_, axis_);
}

WorkPtr Communicator::all_reduce(at::Tensor tensor, ReduceOp op, std::string_view site) {
  check_contiguous(tensor);
  const int64_t bytes = 2 * bytes_of(tensor) * (size() - 1) / size();
  return counted(start_all_reduce(std::move(tensor), op, std::string(site)), bytes);
}

WorkPtr Communicator::all_gather(at::Tensor output, at::Tensor input, std::string_view site) {
  check_parts(output, input, size());
  const int64_t bytes = bytes_of(input) * (size() - 1);
  return counted(start_all_gather(std::move(output), std::move(input), std::string(site)), bytes);
}

WorkPtr Communicator::reduce_scatter(at::Tensor output, at::Tensor input, ReduceOp op, std::string_view site) {
  check_parts(input, output, size());
  const int64_t bytes = bytes_of(output) * (size() - 1);
  return counted(start_reduce_scatter(std::move(output), std::move(input), op, std::string(site)), bytes);
}

WorkPtr Communicator::all_to_all(at::Tensor output, at::Tensor input, std::vector<int64_t> output_splits, std::vector<int64_t> input_splits,
                                 std::string_view site) {
  check_contiguous(output);
  check_contiguous(input);
  const auto ranks = static_cast<size_t>(size()), own = static_cast<size_t>(rank());
  TESSERA_CHECK(output_splits.size() == ranks && input_splits.size() == ranks, "one split a rank is needed");
  TESSERA_CHECK(total(input_splits) == input.size(0) && total(output_splits) == output.size(0), "the splits do not add up to the rows");
  TESSERA_CHECK(output.scalar_type() == input.scalar_type() && output.dim() == input.dim() && output.sizes().slice(1) == input.sizes().slice(1));
  TESSERA_CHECK(input_splits[own] == output_splits[own]);
  const auto row = input.sizes().slice(1);
  const int64_t row_bytes = std::accumulate(row.begin(), row.end(), static_cast<int64_t>(input.element_size()), std::multiplies<>());
  const int64_t bytes = (input.size(0) - input_splits[own]) * row_bytes;
  return counted(start_all_to_all(std::move(output), std::move(input), std::move(output_splits), std::move(input_splits), std::string(site)),
                 bytes);
}

WorkPtr Communicator::broadcast(at::Tensor tensor, int root, std::string_view site) {
  check_contiguous(tensor);
  TESSERA_CHECK(root >= 0 && root < size());
  const int64_t bytes = root == rank() && size() > 1 ? bytes_of(tensor) : 0;
  return counted(start_broadcast(std::move(tensor), root, std::string(site)), bytes);
}

WorkPtr Communicator::exchange(std::vector<Message> sends, std::vector<Message> receives, std::string_view site) {
  int64_t bytes = 0;
  for (const auto* messages : {&sends, &receives})
    for (const Message& message : *messages) {
      check_contiguous(message.tensor);
      TESSERA_CHECK(message.peer >= 0 && message.peer < size() && message.tag >= 0 && message.tag < kMaxTag);
      if (messages == &sends && message.peer != rank()) bytes += bytes_of(message.tensor);
    }
  return counted(start_exchange(std::move(sends), std::move(receives), std::string(site)), bytes);
}

void Communicator::barrier(std::string_view site) { counted(start_barrier(std::string(site)), 0)->wait(); }

std::unique_ptr<Communicator> Communicator::split(const std::vector<int>& colors, std::string axis) {
  TESSERA_CHECK(static_cast<int>(colors.size()) == size(), "one color a rank is needed");
  return make_group(colors, std::move(axis), ledger_);
}

WorkPtr make_done_work() { return std::make_unique<DoneWork>(); }

std::unique_ptr<Communicator> Communicator::duplicate(std::string axis) {
  return make_group(std::vector<int>(static_cast<size_t>(size()), 0), std::move(axis), std::make_shared<TrafficLedger>());
}

}  // namespace tessera::parallel
