#include "parallel/c10d_communicator.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <algorithm>
#include <condition_variable>
#include <list>
#include <mutex>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/text.h"
#include "parallel/text_exchange.h"

namespace tessera::parallel {

namespace {

using Clock = std::chrono::steady_clock;
using C10dWork = c10::intrusive_ptr<c10d::Work>;
using BackendPtr = c10::intrusive_ptr<c10d::Backend>;

c10d::ReduceOp reduction(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum: return c10d::ReduceOp::SUM;
    case ReduceOp::kMax: return c10d::ReduceOp::MAX;
    case ReduceOp::kMin: return c10d::ReduceOp::MIN;
  }
  return c10d::ReduceOp::SUM;
}

/// An operation under way: one work, or several of a backend that does not join sends and receives.
struct Issued {
  std::vector<C10dWork> works;
  std::string description;  // "dp all_reduce #3 at gradients 0 (4 MiB)"
  Clock::time_point deadline;
  std::vector<at::Tensor> tensors;  // kept alive

  [[nodiscard]] bool done() const {
    return std::all_of(works.begin(), works.end(), [](const C10dWork& work) { return work->isCompleted(); });
  }
  /// Why it failed; empty: it has not.
  [[nodiscard]] std::string failure() const {
    for (const auto& work : works) {
      const std::exception_ptr error = work->exception();
      if (!error) continue;
      try {
        std::rethrow_exception(error);
      } catch (const std::exception& e) {
        return e.what();
      }
    }
    return {};
  }
};
using IssuedPtr = std::shared_ptr<Issued>;

/// The thread that watches deadlines, and what all groups share.
class Watch final {
 public:
  Watch(const DeviceKind& kind, const C10dOptions& options) : kind(kind), options(options), thread_([this] { run(); }) {}
  ~Watch() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  void add_backend(BackendPtr backend) {
    const std::lock_guard lock(mutex_);
    backends_.push_back(std::move(backend));
  }
  void add(IssuedPtr issued) {
    {
      const std::lock_guard lock(mutex_);
      under_way_.push_back(std::move(issued));
    }
    changed_.notify_all();
  }
  void check() {
    const std::lock_guard lock(mutex_);
    if (!failure_.empty()) throw CommError(failure_);
  }
  /// Ends everything: `issued` failed or is late.
  void fail(const Issued& issued, const std::string& reason) {
    std::vector<BackendPtr> backends;
    {
      const std::lock_guard lock(mutex_);
      if (!failure_.empty()) return;
      failure_ = issued.description + " " + reason;
      if (kind.diagnosis)
        if (const std::string text = kind.diagnosis(); !text.empty()) failure_ += "; the backend's record: " + text;
      backends = backends_;
    }
    for (const auto& backend : backends) {
      try {
        backend->abort();
      } catch (const std::exception&) {  // the first failure is the one to tell
      }
    }
  }

  const DeviceKind& kind;
  const C10dOptions options;

 private:
  void run() {
    constexpr auto kPeriod = std::chrono::milliseconds(50);
    std::unique_lock lock(mutex_);
    while (!stop_) {
      if (under_way_.empty()) {
        changed_.wait(lock);
        continue;
      }
      changed_.wait_for(lock, kPeriod, [this] { return stop_; });
      const std::list<IssuedPtr> looked_at = under_way_;
      lock.unlock();  // asking a work may take long
      std::vector<IssuedPtr> gone;
      for (const auto& issued : looked_at) {
        std::string reason = issued->failure();
        if (!reason.empty()) {
          reason = "failed: " + reason;
        } else if (issued->done()) {
          gone.push_back(issued);
          continue;
        } else if (Clock::now() > issued->deadline) {
          reason = "did not complete within " + format_seconds(options.timeout_seconds);
        } else {
          continue;
        }
        gone.push_back(issued);
        fail(*issued, reason);
      }
      lock.lock();
      for (const auto& issued : gone) under_way_.remove(issued);
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  std::string failure_;
  std::vector<BackendPtr> backends_;
  std::list<IssuedPtr> under_way_;
  std::thread thread_;
};

class StreamWork final : public Work {
 public:
  StreamWork(std::shared_ptr<Watch> watch, IssuedPtr issued) : watch_(std::move(watch)), issued_(std::move(issued)) {}

  void wait() override {
    watch_->check();
    if (!watch_->kind.streams) {
      while (!issued_->done()) {
        watch_->check();
        std::this_thread::sleep_for(std::chrono::microseconds(20));
      }
      if (const std::string reason = issued_->failure(); !reason.empty()) watch_->fail(*issued_, "failed: " + reason);
    }
    try {
      for (const auto& work : issued_->works) work->wait();
    } catch (const std::exception& error) {
      watch_->fail(*issued_, std::string("failed: ") + error.what());
    }
    watch_->check();
  }
  bool done() override { return issued_->done(); }

 private:
  std::shared_ptr<Watch> watch_;
  IssuedPtr issued_;
};

class C10dCommunicator final : public Communicator {
 public:
  /// `prefix` tells the groups of a job apart in the store.
  C10dCommunicator(Communicator& control, std::unique_ptr<Communicator> owned_control, c10::intrusive_ptr<c10d::Store> store, std::string prefix,
                   std::shared_ptr<Watch> watch, std::string axis, std::shared_ptr<TrafficLedger> ledger)
      : Communicator(std::move(axis), std::move(ledger)), owned_control_(std::move(owned_control)), control_(control), store_(std::move(store)),
        prefix_(std::move(prefix)), watch_(std::move(watch)) {
    // The backend's own deadline comes behind ours, which knows what was called where.
    const auto timeout = std::chrono::milliseconds(static_cast<int64_t>(2000 * watch_->options.timeout_seconds));
    backend_ = watch_->kind.make_backend(c10::make_intrusive<c10d::PrefixStore>(prefix_, store_), control.rank(), control.size(), timeout);
    watch_->add_backend(backend_);
  }

  int rank() const override { return control_.rank(); }
  int size() const override { return control_.size(); }
  std::vector<int> nodes() const override { return control_.nodes(); }
  std::unique_ptr<LongPhase> announce(std::string what) override { return control_.announce(std::move(what)); }

 private:
  WorkPtr start_all_reduce(at::Tensor tensor, ReduceOp op, std::string site) override {
    if (!here(tensor)) return control_.all_reduce(tensor, op, site);
    return issue("all_reduce", site, tensor, {tensor}, [&] {
      std::vector<at::Tensor> tensors = {tensor};
      c10d::AllreduceOptions options;
      options.reduceOp = reduction(op);
      return backend_->allreduce(tensors, options);
    });
  }
  WorkPtr start_all_gather(at::Tensor output, at::Tensor input, std::string site) override {
    if (!here(output)) return control_.all_gather(output, input, site);
    return issue("all_gather", site, output, {output, input}, [&] { return backend_->_allgather_base(output, input); });
  }
  WorkPtr start_reduce_scatter(at::Tensor output, at::Tensor input, ReduceOp op, std::string site) override {
    if (!here(input)) return control_.reduce_scatter(output, input, op, site);
    return issue("reduce_scatter", site, input, {output, input}, [&] {
      c10d::ReduceScatterOptions options;
      options.reduceOp = reduction(op);
      return backend_->_reduce_scatter_base(output, input, options);
    });
  }
  WorkPtr start_all_to_all(at::Tensor output, at::Tensor input, std::vector<int64_t> output_splits, std::vector<int64_t> input_splits,
                           std::string site) override {
    if (!here(input)) return control_.all_to_all(output, input, std::move(output_splits), std::move(input_splits), site);
    return issue("all_to_all", site, input, {output, input}, [&] { return backend_->alltoall_base(output, input, output_splits, input_splits); });
  }
  WorkPtr start_broadcast(at::Tensor tensor, int root, std::string site) override {
    if (!here(tensor)) return control_.broadcast(tensor, root, site);
    return issue("broadcast", site, tensor, {tensor}, [&] {
      std::vector<at::Tensor> tensors = {tensor};
      c10d::BroadcastOptions options;
      options.rootRank = root;
      return backend_->broadcast(tensors, options);
    });
  }

  /// Joined into one operation where the backend can, so that neighbours that send both ways do not wait for each other.
  WorkPtr start_exchange(std::vector<Message> sends, std::vector<Message> receives, std::string site) override {
    if (sends.empty() && receives.empty()) return make_done_work();
    const at::Tensor first = (sends.empty() ? receives : sends).front().tensor;
    if (!here(first)) return control_.exchange(std::move(sends), std::move(receives), site);
    watch_->check();
    auto issued = make("exchange", site, first);
    const bool joined = backend_->supportsCoalescing();
    try {
      if (joined) backend_->startCoalescing();
      for (const auto* messages : {&receives, &sends})
        for (const Message& message : *messages) {
          std::vector<at::Tensor> tensors = {message.tensor};
          issued->tensors.push_back(message.tensor);
          auto work = messages == &sends ? backend_->send(tensors, message.peer, message.tag) : backend_->recv(tensors, message.peer, message.tag);
          if (!joined) issued->works.push_back(std::move(work));
        }
      if (joined) issued->works.push_back(backend_->endCoalescing());
    } catch (const std::exception& error) {
      watch_->fail(*issued, std::string("failed: ") + error.what());
      watch_->check();
    }
    return hand_over(issued);
  }

  /// The host's: a barrier orders ranks, not streams.
  WorkPtr start_barrier(std::string site) override {
    control_.barrier(site);
    return make_done_work();
  }

  std::unique_ptr<Communicator> make_group(const std::vector<int>& colors, std::string axis, std::shared_ptr<TrafficLedger> ledger) override {
    auto control = control_.split(colors, axis);
    Communicator& members = *control;
    std::string prefix = detail::concat(prefix_, '/', axis, '#', ++splits_, ':', colors[static_cast<size_t>(rank())]);
    return std::make_unique<C10dCommunicator>(members, std::move(control), store_, std::move(prefix), watch_, std::move(axis), std::move(ledger));
  }

  [[nodiscard]] bool here(const at::Tensor& tensor) const { return tensor.device().type() == watch_->kind.type; }

  IssuedPtr make(const char* name, const std::string& site, const at::Tensor& tensor) {
    auto issued = std::make_shared<Issued>();
    issued->description = detail::concat(axis(), ' ', name, " #", ++sequence_, site.empty() ? "" : " at ", site, " (",
                                         format_bytes(static_cast<int64_t>(tensor.nbytes())), ")");
    issued->deadline = Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(1000 * watch_->options.timeout_seconds));
    return issued;
  }
  WorkPtr hand_over(const IssuedPtr& issued) {
    watch_->add(issued);
    return std::make_unique<StreamWork>(watch_, issued);
  }
  template <typename Call>
  WorkPtr issue(const char* name, const std::string& site, const at::Tensor& sized, std::vector<at::Tensor> tensors, const Call& call) {
    watch_->check();
    auto issued = make(name, site, sized);
    issued->tensors = std::move(tensors);
    try {
      issued->works.push_back(call());
    } catch (const std::exception& error) {
      watch_->fail(*issued, std::string("failed: ") + error.what());
      watch_->check();
    }
    return hand_over(issued);
  }

  std::unique_ptr<Communicator> owned_control_;
  Communicator& control_;
  c10::intrusive_ptr<c10d::Store> store_;
  std::string prefix_;
  std::shared_ptr<Watch> watch_;
  BackendPtr backend_;
  int64_t sequence_ = 0, splits_ = 0;
};

/// An IPv4 address by which other hosts can reach this one.
std::string address_of_this_host() {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return "127.0.0.1";
  std::string found = "127.0.0.1";
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != AF_INET) continue;
    if ((entry->ifa_flags & IFF_LOOPBACK) != 0 || (entry->ifa_flags & IFF_UP) == 0) continue;
    char text[INET_ADDRSTRLEN];
    const auto* address = reinterpret_cast<const sockaddr_in*>(entry->ifa_addr);
    if (::inet_ntop(AF_INET, &address->sin_addr, text, sizeof text) == nullptr) continue;
    found = text;
    break;
  }
  ::freeifaddrs(list);
  return found;
}

c10::intrusive_ptr<c10d::Store> make_store(Communicator& control, const C10dOptions& options) {
  c10d::TCPStoreOptions tcp;
  tcp.timeout = std::chrono::milliseconds(static_cast<int64_t>(1000 * options.timeout_seconds));
  tcp.waitWorkers = false;
  tcp.useLibUV = false;
  const std::vector<int> nodes = control.nodes();
  const bool one_host = std::all_of(nodes.begin(), nodes.end(), [](int node) { return node == 0; });
  c10::intrusive_ptr<c10d::TCPStore> store;
  std::string place, problem;
  if (control.rank() == 0) {
    try {
      tcp.isServer = true;
      tcp.port = 0;
      const std::string host = one_host ? "127.0.0.1" : address_of_this_host();
      store = c10::make_intrusive<c10d::TCPStore>(host, tcp);
      place = detail::concat(host, ' ', store->getPort());
    } catch (const std::exception& error) {
      problem = error.what();
    }
  }
  place = broadcast_text(control, place);
  if (place.empty()) throw CommError("rank 0 cannot open a store for the device backends" + (problem.empty() ? std::string() : ": " + problem));
  std::string failure;
  if (control.rank() != 0) {
    const auto space = place.find(' ');
    try {
      tcp.isServer = false;
      tcp.port = static_cast<uint16_t>(std::stoi(place.substr(space + 1)));
      store = c10::make_intrusive<c10d::TCPStore>(place.substr(0, space), tcp);
    } catch (const std::exception& error) {
      failure = detail::concat("rank ", control.rank(), " cannot reach the store of rank 0 at ", place, "; open the way between the hosts: ", error.what());
    }
  }
  for (const auto& text : all_gather_text(control, failure))
    if (!text.empty()) throw CommError(text);
  return store;
}

}  // namespace

std::unique_ptr<Communicator> make_c10d_communicator(Communicator& control, const DeviceKind& kind, const C10dOptions& options) {
  auto store = make_store(control, options);
  return std::make_unique<C10dCommunicator>(control, nullptr, std::move(store), kind.name, std::make_shared<Watch>(kind, options), control.axis(), nullptr);
}

}  // namespace tessera::parallel
