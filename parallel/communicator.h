// Collective and point-to-point communication over one axis of the mesh. Every operation is non-blocking and returns a
// Work; operations of one communicator complete in the order they were issued. A group of one is the identity.
//
// Each operation may say where it was called (`site`, "moe layer 14"), for messages. A wait past the deadline throws
// CommError naming the axis, the operation, its sequence number, its site, its bytes and the ranks that have not arrived. It
// never hangs.
//
// The public functions check their arguments and count what is sent; what moves the data implements the protected ones.
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/traffic.h"

namespace tessera::parallel {

enum class ReduceOp { kSum, kMax, kMin };

/// A pending operation. The tensors given to it must stay alive and untouched until wait() returned.
class [[nodiscard]] Work {
 public:
  virtual ~Work() = default;
  /// Blocks until the operation is complete. Throws CommError past the deadline. Idempotent.
  virtual void wait() = 0;
  [[nodiscard]] virtual bool done() = 0;
  /// When the data was there, for a Work that is done.
  [[nodiscard]] virtual std::chrono::steady_clock::time_point finished() { return std::chrono::steady_clock::now(); }
};
using WorkPtr = std::unique_ptr<Work>;
/// Of which nothing is left to do.
[[nodiscard]] WorkPtr make_done_work();

struct Message {
  at::Tensor tensor;  // contiguous; filled by a receive
  int peer = 0;       // rank within the communicator
  int tag = 0;
};

/// While one of these is alive in a rank, peers that wait for that rank wait on instead of failing: it tokenises or saves.
class LongPhase {
 public:
  virtual ~LongPhase() = default;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  [[nodiscard]] virtual int rank() const = 0;
  [[nodiscard]] virtual int size() const = 0;
  /// The mesh axis, for messages and counts: "dp", "ep", "pp", "world".
  [[nodiscard]] const std::string& axis() const { return axis_; }
  /// What this rank has sent so far over this communicator and all that come from the same one, by axis.
  [[nodiscard]] std::map<std::string, Traffic> traffic() const { return ledger_->read(); }

  /// In place, contiguous; float32, float64, bfloat16, int32, int64, uint8. bfloat16 sums are made in float32.
  WorkPtr all_reduce(at::Tensor tensor, ReduceOp op = ReduceOp::kSum, std::string_view site = {});
  /// `output` holds size() times the elements of `input`, in rank order. `input` may be the rank's slice of `output`.
  WorkPtr all_gather(at::Tensor output, at::Tensor input, std::string_view site = {});
  /// `input` holds size() times the elements of `output`. `output` may be the rank's slice of `input`.
  WorkPtr reduce_scatter(at::Tensor output, at::Tensor input, ReduceOp op = ReduceOp::kSum, std::string_view site = {});
  /// Splits count rows (dimension 0) and may be zero; they must add up to the rows of input and output.
  WorkPtr all_to_all(at::Tensor output, at::Tensor input, std::vector<int64_t> output_splits, std::vector<int64_t> input_splits,
                     std::string_view site = {});
  WorkPtr broadcast(at::Tensor tensor, int root, std::string_view site = {});
  /// All sends and receives are posted at once, so neighbours that send both ways cannot deadlock. Concerns the named
  /// peers only; tags are in [0, 2^20).
  WorkPtr exchange(std::vector<Message> sends, std::vector<Message> receives, std::string_view site = {});
  void barrier(std::string_view site = {});
  /// Collective. colors[r]: which group rank r joins; ranks of equal color, in the order of their ranks here, form a new
  /// communicator. The same list on all ranks.
  [[nodiscard]] std::unique_ptr<Communicator> split(const std::vector<int>& colors, std::string axis);
  /// Collective. The same ranks once more, for another thread; what goes over it, and over what is split from it, is counted apart.
  [[nodiscard]] std::unique_ptr<Communicator> duplicate(std::string axis);
  /// Which node each rank is on, numbered from 0 in the order of ranks.
  [[nodiscard]] virtual std::vector<int> nodes() const { return std::vector<int>(static_cast<size_t>(size()), 0); }
  /// Tells peers that wait for this rank that it is busy with `what` ("saving checkpoint") until the returned object dies.
  /// Local. On a communicator that was split off: those only that wait for it there, since other threads go on.
  [[nodiscard]] virtual std::unique_ptr<LongPhase> announce(std::string what) = 0;

 protected:
  /// Without a ledger of a parent: the first of its family.
  explicit Communicator(std::string axis, std::shared_ptr<TrafficLedger> ledger = nullptr);

  virtual WorkPtr start_all_reduce(at::Tensor tensor, ReduceOp op, std::string site) = 0;
  virtual WorkPtr start_all_gather(at::Tensor output, at::Tensor input, std::string site) = 0;
  virtual WorkPtr start_reduce_scatter(at::Tensor output, at::Tensor input, ReduceOp op, std::string site) = 0;
  virtual WorkPtr start_all_to_all(at::Tensor output, at::Tensor input, std::vector<int64_t> output_splits,
                                   std::vector<int64_t> input_splits, std::string site) = 0;
  virtual WorkPtr start_broadcast(at::Tensor tensor, int root, std::string site) = 0;
  virtual WorkPtr start_exchange(std::vector<Message> sends, std::vector<Message> receives, std::string site) = 0;
  virtual WorkPtr start_barrier(std::string site) = 0;
  [[nodiscard]] virtual std::unique_ptr<Communicator> make_group(const std::vector<int>& colors, std::string axis,
                                                                 std::shared_ptr<TrafficLedger> ledger) = 0;

  static constexpr int kMaxTag = 1 << 20;

 private:
  WorkPtr counted(WorkPtr work, int64_t bytes);

  std::string axis_;
  std::shared_ptr<TrafficLedger> ledger_;
};

/// The group of one.
[[nodiscard]] std::unique_ptr<Communicator> make_self_communicator(std::string axis = "world");

/// Stands for rank `rank` of a world of `size`: moves nothing, waits for nothing, counts the same. Outputs keep what they
/// held. Takes tensors of any device, "meta" among them.
[[nodiscard]] std::unique_ptr<Communicator> make_dry_run_communicator(int rank, int size);

}  // namespace tessera::parallel
