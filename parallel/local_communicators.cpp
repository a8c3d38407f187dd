#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "parallel/communicator.h"

namespace tessera::parallel {
namespace {

void copy_unless_same(const at::Tensor& to, const at::Tensor& from) {
  TESSERA_CHECK(to.numel() == from.numel() && to.scalar_type() == from.scalar_type(),
                "sizes or types differ: ", to.sizes(), " and ", from.sizes());
  if (to.data_ptr() != from.data_ptr()) at::Tensor(to).view({-1}).copy_(from.view({-1}));
}

class SelfCommunicator final : public Communicator {
 public:
  explicit SelfCommunicator(std::string axis, std::shared_ptr<TrafficLedger> ledger = nullptr)
      : Communicator(std::move(axis), std::move(ledger)) {}

  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::unique_ptr<LongPhase> announce(std::string) override { return std::make_unique<LongPhase>(); }

 private:
  WorkPtr start_all_reduce(at::Tensor, ReduceOp, std::string) override { return make_done_work(); }
  WorkPtr start_all_gather(at::Tensor output, at::Tensor input, std::string) override {
    copy_unless_same(output, input);
    return make_done_work();
  }
  WorkPtr start_reduce_scatter(at::Tensor output, at::Tensor input, ReduceOp, std::string) override {
    copy_unless_same(output, input);
    return make_done_work();
  }
  WorkPtr start_all_to_all(at::Tensor output, at::Tensor input, std::vector<int64_t>, std::vector<int64_t>, std::string) override {
    copy_unless_same(output, input);
    return make_done_work();
  }
  WorkPtr start_broadcast(at::Tensor, int, std::string) override { return make_done_work(); }
  /// Messages to oneself: the n-th send of a tag fills the n-th receive of that tag.
  WorkPtr start_exchange(std::vector<Message> sends, std::vector<Message> receives, std::string) override {
    TESSERA_CHECK(sends.size() == receives.size(), "a group of one must receive what it sends");
    std::vector<bool> used(sends.size(), false);
    for (const Message& receive : receives) {
      size_t i = 0;
      while (i < sends.size() && (used[i] || sends[i].tag != receive.tag)) ++i;
      TESSERA_CHECK(i < sends.size(), "nothing was sent with tag ", receive.tag);
      used[i] = true;
      copy_unless_same(receive.tensor, sends[i].tensor);
    }
    return make_done_work();
  }
  WorkPtr start_barrier(std::string) override { return make_done_work(); }
  std::unique_ptr<Communicator> make_group(const std::vector<int>&, std::string axis, std::shared_ptr<TrafficLedger> ledger) override {
    return std::make_unique<SelfCommunicator>(std::move(axis), std::move(ledger));
  }
};

/// See make_dry_run_communicator.
class DryRunCommunicator final : public Communicator {
 public:
  DryRunCommunicator(int rank, int size, std::string axis, std::shared_ptr<TrafficLedger> ledger = nullptr)
      : Communicator(std::move(axis), std::move(ledger)), rank_(rank), size_(size) {
    TESSERA_CHECK(rank >= 0 && rank < size);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::unique_ptr<LongPhase> announce(std::string) override { return std::make_unique<LongPhase>(); }

 private:
  WorkPtr start_all_reduce(at::Tensor, ReduceOp, std::string) override { return make_done_work(); }
  WorkPtr start_all_gather(at::Tensor, at::Tensor, std::string) override { return make_done_work(); }
  WorkPtr start_reduce_scatter(at::Tensor, at::Tensor, ReduceOp, std::string) override { return make_done_work(); }
  WorkPtr start_all_to_all(at::Tensor, at::Tensor, std::vector<int64_t>, std::vector<int64_t>, std::string) override { return make_done_work(); }
  WorkPtr start_broadcast(at::Tensor, int, std::string) override { return make_done_work(); }
  WorkPtr start_exchange(std::vector<Message>, std::vector<Message>, std::string) override { return make_done_work(); }
  WorkPtr start_barrier(std::string) override { return make_done_work(); }
  std::unique_ptr<Communicator> make_group(const std::vector<int>& colors, std::string axis, std::shared_ptr<TrafficLedger> ledger) override {
    const int own = colors[static_cast<size_t>(rank_)];
    const auto mine = [own](int color) { return color == own; };
    return std::make_unique<DryRunCommunicator>(static_cast<int>(std::count_if(colors.begin(), colors.begin() + rank_, mine)),
                                                static_cast<int>(std::count_if(colors.begin(), colors.end(), mine)), std::move(axis),
                                                std::move(ledger));
  }

  int rank_, size_;
};

}  // namespace

std::unique_ptr<Communicator> make_self_communicator(std::string axis) {
  return std::make_unique<SelfCommunicator>(std::move(axis));
}

std::unique_ptr<Communicator> make_dry_run_communicator(int rank, int size) {
  return std::make_unique<DryRunCommunicator>(rank, size, "world");
}

}  // namespace tessera::parallel
