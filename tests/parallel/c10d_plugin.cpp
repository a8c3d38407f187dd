// A plug-in as another vendor would write it: a c10d backend, here over Tessera's MPI communicator, for the device "twin", which is
// the CPU. It fails in the way that TESSERA_TEST_BACKEND_FAULT names.
#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <thread>

#include "parallel/device.h"
#include "tests/parallel/c10d_plugin.h"

namespace tessera::parallel {
namespace {

bool fault(const std::string& name) {
  const char* wanted = std::getenv("TESSERA_TEST_BACKEND_FAULT");
  return wanted != nullptr && name == wanted;
}

class TwinWork final : public c10d::Work {
 public:
  TwinWork(WorkPtr work, std::shared_ptr<std::atomic<bool>> aborted) : work_(std::move(work)), aborted_(std::move(aborted)) {}
  bool isCompleted() override {
    return fault("hang") ? aborted_->load() : work_->done();
  }
  bool isSuccess() const override { return !fault("fail"); }
  std::exception_ptr exception() const override {
    return fault("fail") ? std::make_exception_ptr(std::runtime_error("the link is down")) : nullptr;
  }
  bool wait(std::chrono::milliseconds) override {
    work_->wait();
    return true;
  }

 private:
  WorkPtr work_;
  std::shared_ptr<std::atomic<bool>> aborted_;
};

class TwinBackend final : public c10d::Backend {
 public:
  TwinBackend(std::unique_ptr<Communicator> group) : Backend(group->rank(), group->size()), group_(std::move(group)) {}

  const std::string getBackendName() const override { return "twin"; }
  void abort() override { *aborted_ = true; }
  bool supportsCoalescing() const override { return true; }
  void startCoalescing() override { sends_.clear(), receives_.clear(); }
  c10::intrusive_ptr<c10d::Work> endCoalescing() override { return work(group_->exchange(std::move(sends_), std::move(receives_))); }
  c10::intrusive_ptr<c10d::Work> send(std::vector<at::Tensor>& t, int to, int tag) override { return sends_.push_back({t[0], to, tag}), nullptr; }
  c10::intrusive_ptr<c10d::Work> recv(std::vector<at::Tensor>& t, int from, int tag) override { return receives_.push_back({t[0], from, tag}), nullptr; }

  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& t, const c10d::AllreduceOptions& o) override { return work(group_->all_reduce(t[0], op(o.reduceOp))); }
  c10::intrusive_ptr<c10d::Work> broadcast(std::vector<at::Tensor>& t, const c10d::BroadcastOptions& o) override {
    return work(group_->broadcast(t[0], static_cast<int>(o.rootRank)));
  }
  c10::intrusive_ptr<c10d::Work> _allgather_base(at::Tensor& out, at::Tensor& in, const c10d::AllgatherOptions&) override { return work(group_->all_gather(out, in)); }
  c10::intrusive_ptr<c10d::Work> _reduce_scatter_base(at::Tensor& out, at::Tensor& in, const c10d::ReduceScatterOptions& o) override {
    return work(group_->reduce_scatter(out, in, op(o.reduceOp)));
  }
  c10::intrusive_ptr<c10d::Work> alltoall_base(at::Tensor& out, at::Tensor& in, std::vector<int64_t>& out_splits, std::vector<int64_t>& in_splits,
                                               const c10d::AllToAllOptions&) override {
    return work(group_->all_to_all(out, in, out_splits, in_splits));
  }

 private:
  static ReduceOp op(const c10d::ReduceOp& op) {
    return op.op_ == c10d::ReduceOp::SUM ? ReduceOp::kSum : op.op_ == c10d::ReduceOp::MAX ? ReduceOp::kMax : ReduceOp::kMin;
  }
  c10::intrusive_ptr<c10d::Work> work(WorkPtr work) const { return c10::make_intrusive<TwinWork>(std::move(work), aborted_); }
  std::unique_ptr<Communicator> group_;
  std::vector<Message> sends_, receives_;
  std::shared_ptr<std::atomic<bool>> aborted_ = std::make_shared<std::atomic<bool>>(false);
};

/// Which ranks of the world are in the group: they write themselves into the store.
std::unique_ptr<Communicator> group_of(Communicator& world, c10d::Store& store, int rank, int size) {
  const auto text = [](const std::vector<uint8_t>& bytes) { return std::string(bytes.begin(), bytes.end()); };
  const std::string own = std::to_string(world.rank());
  store.set("member" + std::to_string(rank), std::vector<uint8_t>(own.begin(), own.end()));
  std::vector<int> colors(static_cast<size_t>(world.size()), -1);
  const int first = std::stoi(text(store.get("member0")));
  // A split is the world's: groups that are made together name themselves by their first rank, which all write down.
  for (int r = 0; r < size; ++r) (void)store.get("member" + std::to_string(r));
  at::Tensor firsts = at::empty({world.size()}, at::kLong);
  world.all_gather(firsts, at::full({1}, first, at::kLong))->wait();
  for (int r = 0; r < world.size(); ++r) colors[static_cast<size_t>(r)] = static_cast<int>(firsts[r].item<int64_t>());
  return world.split(colors, "twin");
}

}  // namespace
}  // namespace tessera::parallel

extern "C" void tessera_register_devices(tessera::parallel::DeviceRegistry& registry) {
  using namespace tessera::parallel;
  if (fault("register")) throw std::runtime_error("no licence");
  DeviceKind kind;
  kind.name = "twin";
  kind.type = c10::DeviceType::CPU;
  kind.count = [] { return 8; };
  kind.make_current = [](int) {};
  kind.make_backend = [](c10::intrusive_ptr<c10d::Store> store, int rank, int size, std::chrono::milliseconds) {
    return c10::intrusive_ptr<c10d::Backend>(c10::make_intrusive<TwinBackend>(group_of(*twin_world(), *store, rank, size)));
  };
  kind.diagnosis = [] { return std::string("all quiet"); };
  registry.add(std::move(kind));
}
