// Collective and point-to-point communication over one axis of the mesh. Every operation is non-blocking and returns a
// Work; operations of one communicator complete in the order they were issued. A group of one is the identity.
//
// A wait past the deadline throws CommError naming the axis, the operation, its sequence number, its bytes and the ranks
// that have not arrived. It never hangs.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace tessera::parallel {

enum class ReduceOp { kSum, kMax, kMin };

/// A pending operation. The tensors given to it must stay alive and untouched until wait() returned.
class [[nodiscard]] Work {
 public:
  virtual ~Work() = default;
  /// Blocks until the operation is complete. Throws CommError past the deadline. Idempotent.
  virtual void wait() = 0;
  [[nodiscard]] virtual bool done() = 0;
};
using WorkPtr = std::unique_ptr<Work>;

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
  /// The mesh axis, for messages: "dp", "ep", "pp", "world".
  [[nodiscard]] virtual const std::string& axis() const = 0;

  /// In place, contiguous; float32, float64, bfloat16, int32, int64, uint8. bfloat16 sums are made in float32.
  virtual WorkPtr all_reduce(at::Tensor tensor, ReduceOp op = ReduceOp::kSum) = 0;
  /// `output` holds size() times the elements of `input`, in rank order. `input` may be the rank's slice of `output`.
  virtual WorkPtr all_gather(at::Tensor output, at::Tensor input) = 0;
  /// `input` holds size() times the elements of `output`. `output` may be the rank's slice of `input`.
  virtual WorkPtr reduce_scatter(at::Tensor output, at::Tensor input, ReduceOp op = ReduceOp::kSum) = 0;
  /// Splits count rows (dimension 0) and may be zero; they must add up to the rows of input and output.
  virtual WorkPtr all_to_all(at::Tensor output, at::Tensor input, std::vector<int64_t> output_splits,
                             std::vector<int64_t> input_splits) = 0;
  virtual WorkPtr broadcast(at::Tensor tensor, int root) = 0;
  /// All sends and receives are posted at once, so neighbours that send both ways cannot deadlock. Concerns the named
  /// peers only; tags are in [0, 2^20).
  virtual WorkPtr exchange(std::vector<Message> sends, std::vector<Message> receives) = 0;
  virtual void barrier() = 0;
  /// Collective. Ranks of equal `color` form a new communicator, ordered by `key`.
  [[nodiscard]] virtual std::unique_ptr<Communicator> split(int color, int key, std::string axis) = 0;
  /// Tells the peers that this rank is busy with `what` ("saving checkpoint") until the returned object dies. Local.
  [[nodiscard]] virtual std::unique_ptr<LongPhase> announce(std::string what) = 0;
};

/// The group of one.
[[nodiscard]] std::unique_ptr<Communicator> make_self_communicator(std::string axis = "world");

}  // namespace tessera::parallel
