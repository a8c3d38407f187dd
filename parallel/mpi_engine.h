// The progress thread behind MpiCommunicator: starts queued operations, polls them, answers peers' questions. Private to
// parallel/.
#pragma once

#include <ATen/core/Tensor.h>
#include <mpi.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "parallel/mpi_communicator.h"

namespace tessera::parallel {

using Clock = std::chrono::steady_clock;

constexpr size_t kTextSize = 96;  // of a site in messages between ranks

/// Copies what fits and ends it with a zero.
template <size_t N>
void copy_text(char (&to)[N], const std::string& text) {
  const size_t size = std::min(text.size(), N - 1);
  std::memcpy(to, text.data(), size);
  to[size] = '\0';
}

/// "all_to_all at moe layer 14 (17 KiB) as its #1187".
[[nodiscard]] std::string describe_call(const std::string& name, const std::string& site, int64_t bytes, int64_t sequence);
/// World ranks by what they called, where all ought to have called the same.
using Callers = std::map<std::string, std::vector<int>>;
/// Who called what, the fewest first: they are likely to be the ones that are out of step.
[[nodiscard]] std::string describe_callers(const Callers& callers);

/// One operation of one communicator at this rank: either `num_parts` MPI calls that `issue` starts, or a `step` that
/// the progress thread calls until it says it is complete.
struct Operation {
  enum class Progress { kNone, kSome, kComplete };

  std::string name, site;
  bool collective = true;  // false: concerns the peers in `part_peers` only, and starts at once
  int64_t sequence = 0;    // counted per communicator, collectives and exchanges apart
  int64_t bytes = 0;
  std::vector<at::Tensor> tensors;  // kept alive

  int64_t num_parts = 0;
  std::function<int(int64_t part, MPI_Request* request)> issue;  // returns an MPI error code
  int64_t max_in_flight = 4;                                     // of the parts
  std::vector<int> part_peers;                                   // world rank by part; for exchanges
  std::function<Progress()> step;                                // throws CommError
  std::function<void()> finish;

  // Owned by the progress thread.
  int64_t issued = 0;
  std::vector<MPI_Request> requests;
  std::vector<int64_t> request_parts;

  // Guarded by the engine's mutex.
  bool done = false;
  Clock::time_point finished{};
  std::string error;
};

class SharedMemory;

/// The state of one communicator at this rank.
struct Channel {
  uint64_t id = 0;  // the same on all members
  std::string axis;
  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0;
  std::vector<int> world_ranks;  // of the members
  bool world = false;
  int64_t num_splits = 0;
  std::shared_ptr<SharedMemory> shared;  // null: collectives go through MPI

  struct Record {
    int64_t sequence = 0;
    std::string name, site;
    int64_t bytes = 0;
  };
  // Guarded by the engine's mutex.
  std::array<int64_t, 2> sequence{};  // collectives and exchanges submitted
  std::array<std::array<Record, 64>, 2> history;  // of collectives and exchanges, by sequence number
  std::deque<std::shared_ptr<Operation>> collectives;  // in order; owned by the progress thread
};

class MpiEngine final {
 public:
  explicit MpiEngine(const MpiOptions& options);
  ~MpiEngine();

  /// Registers a communicator. Collective over `comm`.
  std::shared_ptr<Channel> add_channel(MPI_Comm comm, uint64_t id, std::string axis);
  void submit(Channel& channel, const std::shared_ptr<Operation>& operation);
  void wait(Channel& channel, Operation& operation);
  [[nodiscard]] bool done(Operation& operation);
  [[nodiscard]] Clock::time_point finished(Operation& operation);

  /// Waits until every rank has come here; ends the job if one no longer answers.
  void wait_for_all_to_end();
  /// Ends the progress thread.
  void stop();

  /// Peers that wait for this rank on `channel`, or on any if it is null, wait on until the phase ends.
  uint64_t begin_phase(std::string what, const Channel* channel = nullptr);
  void end_phase(uint64_t id);

  void set_timeout(double seconds);
  [[nodiscard]] bool healthy();
  [[nodiscard]] double cpu_seconds();
  [[nodiscard]] const MpiOptions& options() const { return options_; }
  [[nodiscard]] MPI_Comm world() const { return world_; }
  [[nodiscard]] int rank() const { return rank_; }
  [[nodiscard]] int size() const { return size_; }
  /// The node of each rank of the world, numbered from 0.
  [[nodiscard]] const std::vector<int>& nodes() const { return nodes_; }
  /// The MPI reduction for bfloat16 values held as MPI_UINT16_T.
  [[nodiscard]] MPI_Op bfloat16_op(ReduceOp op) const { return bfloat16_ops_[static_cast<size_t>(op)]; }

 private:
  struct SideMessage;
  struct Inquiry;
  struct Verdict;
  struct Waiting {
    Channel* channel;
    Operation* operation;
    Clock::time_point deadline;
    bool overdue = false;  // has passed its first deadline
    bool deferred = false;  // has let a peer that is overdue itself speak first
    int excuse_hops = 0;   // > 0: goes on because a peer is in a long phase, so many ranks away
    std::string excuse = {};
  };

  void run();
  bool poll(const std::shared_ptr<Operation>& operation);
  bool poll_channel(Channel& channel);
  void complete(Operation& operation, const std::string& error);

  void serve_side_channel();
  void start_inquiry(Inquiry& inquiry);
  void answer(const SideMessage& question, int to);
  void tell_phase(const Channel* channel, SideMessage& message) const;
  Verdict judge(const Operation& operation, const Inquiry& inquiry, int attempts, bool deferred) const;
  std::shared_ptr<Inquiry> inquire(std::unique_lock<std::mutex>& lock, Channel& channel, Operation& operation);

  MpiOptions options_;
  MPI_Comm world_ = MPI_COMM_NULL;  // a duplicate of MPI_COMM_WORLD
  MPI_Comm side_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  std::vector<int> nodes_;
  std::array<MPI_Op, 3> bfloat16_ops_{};
  std::shared_ptr<Channel> end_channel_;

  std::mutex mutex_;
  std::condition_variable work_added_, work_done_;
  bool stop_ = false;
  std::string failure_;  // what went wrong first: from then on everything fails, in all threads
  uint64_t next_id_ = 1;
  struct Phase {
    std::string what;
    const Channel* channel;
  };
  std::map<uint64_t, Phase> phases_;
  std::map<const Channel*, Clock::time_point> phase_ends_;  // of the last one
  std::list<Waiting> waiting_;
  std::map<uint64_t, std::shared_ptr<Channel>> channels_;
  std::deque<std::pair<Channel*, std::shared_ptr<Operation>>> submitted_;
  std::deque<std::shared_ptr<Inquiry>> inquiries_;

  // Owned by the progress thread.
  std::list<std::shared_ptr<Operation>> exchanges_;
  std::vector<Channel*> active_channels_;
  std::map<uint64_t, std::shared_ptr<Inquiry>> open_inquiries_;
  struct PendingSend;
  std::list<std::unique_ptr<PendingSend>> pending_sends_;
  std::unique_ptr<SideMessage> incoming_;
  MPI_Request incoming_request_ = MPI_REQUEST_NULL;

  std::thread thread_;
};

}  // namespace tessera::parallel
