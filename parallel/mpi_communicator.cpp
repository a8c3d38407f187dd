#include "parallel/mpi_communicator.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <functional>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "parallel/mpi_engine.h"
#include "parallel/shared_memory.h"

namespace tessera::parallel {
namespace {


MPI_Datatype reduce_type(at::ScalarType type) {
  switch (type) {
    case at::kFloat: return MPI_FLOAT;
    case at::kDouble: return MPI_DOUBLE;
    case at::kBFloat16: return MPI_UINT16_T;
    case at::kInt: return MPI_INT32_T;
    case at::kLong: return MPI_INT64_T;
    case at::kByte: return MPI_UINT8_T;
    default: TESSERA_CHECK(false, "no reduction for tensors of type ", c10::toString(type));
  }
  return MPI_DATATYPE_NULL;
}

/// A type of the element's size, for operations that only move data.
MPI_Datatype move_type(const at::Tensor& tensor) {
  switch (tensor.element_size()) {
    case 1: return MPI_UINT8_T;
    case 2: return MPI_UINT16_T;
    case 4: return MPI_UINT32_T;
    case 8: return MPI_UINT64_T;
    default: TESSERA_CHECK(false, "elements of ", tensor.element_size(), " bytes cannot be sent");
  }
  return MPI_DATATYPE_NULL;
}

void check_device(const at::Tensor& tensor) { TESSERA_CHECK(tensor.device().is_cpu(), "MPI moves CPU tensors"); }

/// An operation's data cut into pieces that one MPI call may move.
struct Chunks {
  int64_t total, limit;
  [[nodiscard]] int64_t count() const { return (total + limit - 1) / limit; }
  [[nodiscard]] int64_t begin(int64_t i) const { return i * limit; }
  [[nodiscard]] int size(int64_t i) const { return static_cast<int>(std::min(limit, total - begin(i))); }
};

class MpiLongPhase final : public LongPhase {
 public:
  MpiLongPhase(std::shared_ptr<MpiEngine> engine, std::string what, const Channel* channel = nullptr)
      : engine_(std::move(engine)), id_(engine_->begin_phase(std::move(what), channel)) {}
  ~MpiLongPhase() override { engine_->end_phase(id_); }

 private:
  std::shared_ptr<MpiEngine> engine_;
  uint64_t id_;
};

class MpiWork final : public Work {
 public:
  MpiWork(std::shared_ptr<MpiEngine> engine, std::shared_ptr<Channel> channel,
          std::shared_ptr<Operation> operation)
      : engine_(std::move(engine)), channel_(std::move(channel)), operation_(std::move(operation)) {}
  void wait() override { engine_->wait(*channel_, *operation_); }
  bool done() override { return engine_->done(*operation_); }
  Clock::time_point finished() override { return engine_->finished(*operation_); }

 private:
  std::shared_ptr<MpiEngine> engine_;
  std::shared_ptr<Channel> channel_;
  std::shared_ptr<Operation> operation_;
};

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(std::shared_ptr<MpiEngine> engine, std::shared_ptr<Channel> channel, std::shared_ptr<TrafficLedger> ledger = nullptr)
      : Communicator(channel->axis, std::move(ledger)), engine_(std::move(engine)), channel_(std::move(channel)) {}
  // The MPI communicator is left to MPI_Finalize: freeing it is collective, and peers may be gone.

  int rank() const override { return channel_->rank; }
  int size() const override { return static_cast<int>(channel_->world_ranks.size()); }
  std::vector<int> nodes() const override {
    std::vector<int> nodes;
    for (const int rank : channel_->world_ranks) nodes.push_back(engine_->nodes()[static_cast<size_t>(rank)]);
    return nodes;
  }
  std::unique_ptr<LongPhase> announce(std::string what) override {
    return std::make_unique<MpiLongPhase>(engine_, std::move(what), channel_->world ? nullptr : channel_.get());
  }

 private:
  WorkPtr start_all_reduce(at::Tensor tensor, ReduceOp op, std::string site) override;
  WorkPtr start_all_gather(at::Tensor output, at::Tensor input, std::string site) override;
  WorkPtr start_reduce_scatter(at::Tensor output, at::Tensor input, ReduceOp op, std::string site) override;
  WorkPtr start_all_to_all(at::Tensor output, at::Tensor input, std::vector<int64_t> output_splits, std::vector<int64_t> input_splits,
                           std::string site) override;
  WorkPtr start_broadcast(at::Tensor tensor, int root, std::string site) override;
  WorkPtr start_exchange(std::vector<Message> sends, std::vector<Message> receives, std::string site) override;
  WorkPtr start_barrier(std::string site) override;
  std::unique_ptr<Communicator> make_group(const std::vector<int>& colors, std::string axis, std::shared_ptr<TrafficLedger> ledger) override;

  static constexpr int kAllToAllTag = kMaxTag + 1;

  std::shared_ptr<Operation> make(std::string name, int64_t bytes, std::vector<at::Tensor> tensors, std::string site) const {
    auto operation = std::make_shared<Operation>();
    operation->name = std::move(name);
    operation->site = std::move(site);
    operation->bytes = bytes;
    operation->tensors = std::move(tensors);
    return operation;
  }
  WorkPtr submit(const std::shared_ptr<Operation>& operation) {
    engine_->submit(*channel_, operation);
    return std::make_unique<MpiWork>(engine_, channel_, operation);
  }
  /// Submits through shared memory; `prepare` tells the SharedOperation what to do.
  template <typename Prepare>
  WorkPtr submit_shared(const std::shared_ptr<Operation>& operation, Prepare prepare) {
    auto shared = std::make_shared<SharedOperation>(*channel_->shared, operation->name, operation->site, operation->bytes);
    prepare(*shared);
    operation->step = [shared, channel = channel_, &operation = *operation] {
      return shared->step(operation.sequence, channel->world_ranks);
    };
    return submit(operation);
  }
  [[nodiscard]] Chunks chunks(int64_t total) const { return {total, engine_->options().max_elements_per_call}; }
  [[nodiscard]] MPI_Op reduction(at::ScalarType type, ReduceOp op) const {
    if (type == at::kBFloat16) return engine_->bfloat16_op(op);
    return op == ReduceOp::kSum ? MPI_SUM : op == ReduceOp::kMax ? MPI_MAX : MPI_MIN;
  }
  /// One point-to-point call; a part of an exchange or all-to-all.
  struct Transfer {
    char* data;
    int count;
    MPI_Datatype type;
    int peer, tag;
    bool send;
  };
  void add_transfers(std::vector<Transfer>& transfers, const at::Tensor& tensor, int64_t first, int64_t count,
                     int peer, int tag, bool send) const;
  WorkPtr submit(const std::shared_ptr<Operation>& operation, std::vector<Transfer> transfers);

  std::shared_ptr<MpiEngine> engine_;
  std::shared_ptr<Channel> channel_;
};

WorkPtr MpiCommunicator::start_all_reduce(at::Tensor tensor, ReduceOp op, std::string site) {
  check_device(tensor);
  const auto operation = make("all_reduce", static_cast<int64_t>(tensor.nbytes()), {tensor}, std::move(site));
  if (channel_->shared) {
    return submit_shared(operation, [&](SharedOperation& shared) { shared.all_reduce(tensor, op); });
  }
  const Chunks parts = chunks(tensor.numel());
  operation->num_parts = parts.count();
  operation->issue = [parts, data = static_cast<char*>(tensor.data_ptr()), size = tensor.element_size(),
                      type = reduce_type(tensor.scalar_type()), op = reduction(tensor.scalar_type(), op),
                      comm = channel_->comm](int64_t i, MPI_Request* request) {
    return MPI_Iallreduce(MPI_IN_PLACE, data + parts.begin(i) * size, parts.size(i), type, op, comm, request);
  };
  return submit(operation);
}

// Whole, or, above the limit of one call, as broadcasts of pieces from every rank in turn.
WorkPtr MpiCommunicator::start_all_gather(at::Tensor output, at::Tensor input, std::string site) {
  check_device(output);
  check_device(input);
  const auto operation = make("all_gather", static_cast<int64_t>(output.nbytes()), {output, input}, std::move(site));
  if (channel_->shared) {
    return submit_shared(operation, [&](SharedOperation& shared) { shared.all_gather(output, input); });
  }
  const int64_t count = input.numel();
  auto* all = static_cast<char*>(output.data_ptr());
  char* own = all + rank() * static_cast<int64_t>(input.nbytes());
  if (input.data_ptr() != own) std::memcpy(own, input.data_ptr(), input.nbytes());
  const Chunks parts = chunks(count);
  const int64_t per_rank = parts.count();
  const auto type = move_type(input);
  const auto comm = channel_->comm;
  if (per_rank == 1) {
    operation->num_parts = 1;
    operation->issue = [=](int64_t, MPI_Request* request) {
      return MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, all, static_cast<int>(count), type, comm, request);
    };
  } else {
    operation->num_parts = per_rank * size();
    operation->max_in_flight = std::max(4, size());
    operation->issue = [=, ranks = size(), element = input.element_size()](int64_t i, MPI_Request* request) {
      const int64_t root = i % ranks, piece = i / ranks;
      return MPI_Ibcast(all + (root * count + parts.begin(piece)) * element, parts.size(piece), type,
                        static_cast<int>(root), comm, request);
    };
  }
  return submit(operation);
}

// Whole through a staging tensor when output is a slice of input (MPI forbids the overlap), or, above the limit of one
// call, as reductions of pieces to every rank in turn.
WorkPtr MpiCommunicator::start_reduce_scatter(at::Tensor output, at::Tensor input, ReduceOp op, std::string site) {
  check_device(output);
  check_device(input);
  const int64_t count = output.numel();
  const auto* in = static_cast<const char*>(input.data_ptr());
  const auto* out = static_cast<const char*>(output.data_ptr());
  const bool overlaps = out >= in && out < in + input.nbytes();
  TESSERA_CHECK(!overlaps || out == in + rank() * static_cast<int64_t>(output.nbytes()),
                "output may only be this rank's slice of input");
  if (channel_->shared) {
    return submit_shared(make("reduce_scatter", static_cast<int64_t>(input.nbytes()), {output, input}, std::move(site)),
                         [&](SharedOperation& shared) { shared.reduce_scatter(output, input, op); });
  }
  at::Tensor target = overlaps ? at::empty_like(output) : output;
  const auto operation = make("reduce_scatter", static_cast<int64_t>(input.nbytes()), {output, input, target}, std::move(site));
  if (overlaps) {
    operation->finish = [output, target] {
      std::memcpy(output.data_ptr(), target.data_ptr(), output.nbytes());
    };
  }
  const Chunks parts = chunks(count);
  const auto type = reduce_type(input.scalar_type());
  const auto mpi_op = reduction(input.scalar_type(), op);
  const auto comm = channel_->comm;
  auto* result = static_cast<char*>(target.data_ptr());
  if (parts.count() == 1) {
    operation->num_parts = 1;
    operation->issue = [=](int64_t, MPI_Request* request) {
      return MPI_Ireduce_scatter_block(in, result, static_cast<int>(count), type, mpi_op, comm, request);
    };
  } else {
    operation->num_parts = parts.count() * size();
    operation->max_in_flight = std::max(4, size());
    operation->issue = [=, ranks = size(), element = input.element_size()](int64_t i, MPI_Request* request) {
      const int64_t root = i % ranks, piece = i / ranks;
      return MPI_Ireduce(in + (root * count + parts.begin(piece)) * element, result + parts.begin(piece) * element,
                         parts.size(piece), type, mpi_op, static_cast<int>(root), comm, request);
    };
  }
  return submit(operation);
}

void MpiCommunicator::add_transfers(std::vector<Transfer>& transfers, const at::Tensor& tensor, int64_t first,
                                    int64_t count, int peer, int tag, bool send) const {
  const Chunks parts = chunks(count);
  const int64_t element = tensor.element_size();
  auto* data = static_cast<char*>(tensor.data_ptr()) + first * element;
  for (int64_t i = 0; i < std::max<int64_t>(parts.count(), 1); ++i) {  // an empty message is a message too
    transfers.push_back({data + parts.begin(i) * element, count == 0 ? 0 : parts.size(i), move_type(tensor), peer,
                         tag, send});
  }
}

WorkPtr MpiCommunicator::submit(const std::shared_ptr<Operation>& operation, std::vector<Transfer> transfers) {
  // Receives first, so that arriving messages find their place.
  std::stable_partition(transfers.begin(), transfers.end(), [](const Transfer& t) { return !t.send; });
  operation->num_parts = static_cast<int64_t>(transfers.size());
  operation->max_in_flight = operation->num_parts;
  for (const Transfer& t : transfers) {
    operation->part_peers.push_back(channel_->world_ranks[static_cast<size_t>(t.peer)]);
  }
  operation->issue = [transfers = std::move(transfers), comm = channel_->comm, &operation = *operation,
                      place = std::hash<std::string>()(operation->name + operation->site)](int64_t i, MPI_Request* request) {
    const Transfer& t = transfers[static_cast<size_t>(i)];
    // A collective has its number and place in the tag: a rank that has left one out must not get the messages of another.
    const auto mark = (place + static_cast<uint64_t>(operation.sequence)) % kMaxTag;
    const int tag = t.tag + (operation.collective ? static_cast<int>(mark) : 0);
    return t.send ? MPI_Isend(t.data, t.count, t.type, t.peer, tag, comm, request)
                  : MPI_Irecv(t.data, t.count, t.type, t.peer, tag, comm, request);
  };
  return submit(operation);
}

WorkPtr MpiCommunicator::start_all_to_all(at::Tensor output, at::Tensor input, std::vector<int64_t> output_splits,
                                          std::vector<int64_t> input_splits, std::string site) {
  check_device(output);
  check_device(input);
  const auto ranks = static_cast<size_t>(size());
  const int64_t row = std::accumulate(input.sizes().begin() + 1, input.sizes().end(), int64_t{1},
                                      std::multiplies<>());
  std::vector<Transfer> transfers;
  int64_t in = 0, out = 0;
  for (size_t i = 0; i < ranks; ++i) {
    const int64_t sent = input_splits[i] * row, received = output_splits[i] * row;
    const int peer = static_cast<int>(i);
    if (peer == rank()) {
      std::memcpy(static_cast<char*>(output.data_ptr()) + out * output.element_size(),
                  static_cast<char*>(input.data_ptr()) + in * input.element_size(),
                  static_cast<size_t>(sent * input.element_size()));
    } else {
      if (received > 0) add_transfers(transfers, output, out, received, peer, kAllToAllTag, false);
      if (sent > 0) add_transfers(transfers, input, in, sent, peer, kAllToAllTag, true);
    }
    in += sent;
    out += received;
  }
  // Bytes differ by rank here; 0 keeps them out of the comparison with the peers'.
  return submit(make("all_to_all", 0, {output, input}, std::move(site)), std::move(transfers));
}

WorkPtr MpiCommunicator::start_broadcast(at::Tensor tensor, int root, std::string site) {
  check_device(tensor);
  const auto operation = make("broadcast", static_cast<int64_t>(tensor.nbytes()), {tensor}, std::move(site));
  if (channel_->shared) {
    return submit_shared(operation, [&](SharedOperation& shared) { shared.broadcast(tensor, root); });
  }
  const Chunks parts = chunks(tensor.numel());
  operation->num_parts = parts.count();
  operation->issue = [=, data = static_cast<char*>(tensor.data_ptr()), element = tensor.element_size(),
                      type = move_type(tensor), comm = channel_->comm](int64_t i, MPI_Request* request) {
    return MPI_Ibcast(data + parts.begin(i) * element, parts.size(i), type, root, comm, request);
  };
  return submit(operation);
}

WorkPtr MpiCommunicator::start_exchange(std::vector<Message> sends, std::vector<Message> receives, std::string site) {
  std::vector<Transfer> transfers;
  std::vector<at::Tensor> tensors;
  int64_t bytes = 0;
  const auto add = [&](const Message& message, bool send) {
    check_device(message.tensor);
    add_transfers(transfers, message.tensor, 0, message.tensor.numel(), message.peer, message.tag, send);
    tensors.push_back(message.tensor);
    bytes += static_cast<int64_t>(message.tensor.nbytes());
  };
  for (const Message& message : receives) add(message, false);
  for (const Message& message : sends) add(message, true);
  const auto operation = make("exchange", bytes, std::move(tensors), std::move(site));
  operation->collective = false;
  return submit(operation, std::move(transfers));
}

WorkPtr MpiCommunicator::start_barrier(std::string site) {
  const auto operation = make("barrier", 0, {}, std::move(site));
  if (channel_->shared) {
    return submit_shared(operation, [](SharedOperation& shared) { shared.barrier(); });
  }
  operation->num_parts = 1;
  operation->issue = [comm = channel_->comm](int64_t, MPI_Request* request) { return MPI_Ibarrier(comm, request); };
  return submit(operation);
}

std::unique_ptr<Communicator> MpiCommunicator::make_group(const std::vector<int>& colors, std::string axis, std::shared_ptr<TrafficLedger> ledger) {
  const int color = colors[static_cast<size_t>(rank())];
  TESSERA_CHECK(color >= 0);
  barrier("making " + axis);  // MPI_Comm_split has no deadline: see first that all are there
  MPI_Comm comm = MPI_COMM_NULL;
  MPI_Comm_split(channel_->comm, color, rank(), &comm);
  // The same on all members, different for other groups: a hash of parent, split and color.
  uint64_t id = channel_->id * 0x9e3779b97f4a7c15ull + static_cast<uint64_t>(++channel_->num_splits);
  id = (id ^ (id >> 29)) * 0xbf58476d1ce4e5b9ull + static_cast<uint64_t>(color);
  id ^= id >> 32;
  auto channel = engine_->add_channel(comm, id, std::move(axis));
  MPI_Comm_free(&comm);
  return std::make_unique<MpiCommunicator>(engine_, std::move(channel), std::move(ledger));
}

}  // namespace

MpiContext::MpiContext(const MpiOptions& options)
    : engine_(std::make_shared<MpiEngine>(options)), exceptions_at_start_(std::uncaught_exceptions()) {}

MpiContext::~MpiContext() {
  const bool finalize = engine_->healthy() && std::uncaught_exceptions() == exceptions_at_start_;
  if (finalize) engine_->wait_for_all_to_end();
  engine_->stop();
  if (finalize) MPI_Finalize();
}

int MpiContext::rank() const { return engine_->rank(); }
int MpiContext::size() const { return engine_->size(); }

std::unique_ptr<Communicator> MpiContext::world() {
  // Distinct from the channel on which ranks meet to end.
  static constexpr uint64_t kWorldId = 2;
  auto channel = engine_->add_channel(engine_->world(), kWorldId, "world");
  channel->world = true;
  return std::make_unique<MpiCommunicator>(engine_, std::move(channel));
}

std::unique_ptr<LongPhase> MpiContext::announce(std::string what) {
  return std::make_unique<MpiLongPhase>(engine_, std::move(what));
}

void MpiContext::set_timeout(double seconds) { engine_->set_timeout(seconds); }
bool MpiContext::healthy() const { return engine_->healthy(); }

void MpiContext::abort(int exit_code) {
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::abort();  // MPI_Abort does not return
}

double MpiContext::progress_cpu_seconds() const { return engine_->cpu_seconds(); }

}  // namespace tessera::parallel
