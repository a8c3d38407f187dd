#include "parallel/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/text.h"

namespace tessera::parallel {
namespace {

constexpr int64_t kDefaultBlockBytes = int64_t{512} << 10;
constexpr int64_t kMaxSegmentBytes = int64_t{24} << 20;  // containers often have 64 MB of shared memory in all
constexpr int64_t kWholeBytes = 4096;                    // smaller all-reduces take one block instead of two
constexpr int64_t kLine = 64;
constexpr int64_t kTile = 1024;  // elements reduced at a time: fits the first-level cache
static_assert(std::atomic<int64_t>::is_always_lock_free);

int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }
int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename T>
struct Accumulator {
  using Type = T;
};
template <>
struct Accumulator<at::BFloat16> {
  using Type = float;
};

template <typename T, typename Combine>
void reduce_with(void* to, const std::vector<const char*>& sources, int64_t count, Combine combine) {
  using A = typename Accumulator<T>::Type;
  std::array<A, kTile> sum;
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int64_t n = std::min(kTile, count - begin);
    const T* first = reinterpret_cast<const T*>(sources[0]) + begin;
    for (int64_t i = 0; i < n; ++i) sum[static_cast<size_t>(i)] = static_cast<A>(first[i]);
    for (size_t s = 1; s < sources.size(); ++s) {
      const T* source = reinterpret_cast<const T*>(sources[s]) + begin;
      for (int64_t i = 0; i < n; ++i) {
        sum[static_cast<size_t>(i)] = combine(sum[static_cast<size_t>(i)], static_cast<A>(source[i]));
      }
    }
    T* out = static_cast<T*>(to) + begin;
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(sum[static_cast<size_t>(i)]);
  }
}

template <typename T>
void reduce_typed(ReduceOp op, void* to, const std::vector<const char*>& sources, int64_t count) {
  using A = typename Accumulator<T>::Type;
  switch (op) {
    case ReduceOp::kSum:
      return reduce_with<T>(to, sources, count, [](A a, A b) { return static_cast<A>(a + b); });
    case ReduceOp::kMax:  // a NaN stays
      return reduce_with<T>(to, sources, count, [](A a, A b) { return a > b || a != a ? a : b; });
    case ReduceOp::kMin:
      return reduce_with<T>(to, sources, count, [](A a, A b) { return a < b || a != a ? a : b; });
  }
}

using Reduce = void (*)(ReduceOp op, void* to, const std::vector<const char*>& sources, int64_t count);

Reduce reduce_function(at::ScalarType type) {
  switch (type) {
    case at::kFloat: return reduce_typed<float>;
    case at::kDouble: return reduce_typed<double>;
    case at::kBFloat16: return reduce_typed<at::BFloat16>;
    case at::kInt: return reduce_typed<int32_t>;
    case at::kLong: return reduce_typed<int64_t>;
    case at::kByte: return reduce_typed<uint8_t>;
    default: TESSERA_CHECK(false, "no reduction for tensors of type ", c10::toString(type));
  }
  return nullptr;
}

void copy(char* to, const char* from, int64_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, static_cast<size_t>(bytes));
}

}  // namespace

int64_t SharedMemory::total_bytes() const {
  return size_ * (static_cast<int64_t>(sizeof(Flags)) +
                  kNumSlots * (static_cast<int64_t>(sizeof(SlotHeader)) + block_bytes_));
}

SharedMemory::Flags& SharedMemory::flags(int rank) const { return reinterpret_cast<Flags*>(base_)[rank]; }

SharedMemory::SlotHeader& SharedMemory::header(int rank, int64_t block) const {
  auto* headers = reinterpret_cast<SlotHeader*>(base_ + size_ * static_cast<int64_t>(sizeof(Flags)));
  return headers[rank * kNumSlots + block % kNumSlots];
}

char* SharedMemory::slot(int rank, int64_t block) const {
  const int64_t before = size_ * (static_cast<int64_t>(sizeof(Flags)) + kNumSlots * static_cast<int64_t>(sizeof(SlotHeader)));
  return base_ + before + (rank * kNumSlots + block % kNumSlots) * block_bytes_;
}

bool SharedMemory::map(const std::string& name, bool create) {
  const int fd = shm_open(name.c_str(), create ? O_CREAT | O_EXCL | O_RDWR : O_RDWR, 0600);
  if (fd < 0) return false;
  // Reserved now: writing to a full file system later would be a fatal signal.
  const bool sized = !create || posix_fallocate(fd, 0, total_bytes()) == 0;
  void* address = sized ? mmap(nullptr, static_cast<size_t>(total_bytes()), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
                        : MAP_FAILED;
  close(fd);
  if (address == MAP_FAILED) return false;
  base_ = static_cast<char*>(address);
  return true;
}

std::unique_ptr<SharedMemory> SharedMemory::create(MPI_Comm comm, uint64_t id, int64_t block_bytes) {
  int rank = 0, size = 1, size_on_node = 0;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &size);
  MPI_Comm node;
  MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node);
  MPI_Comm_size(node, &size_on_node);
  MPI_Comm_free(&node);
  int usable = size_on_node == size && size > 1 ? 1 : 0;
  MPI_Allreduce(MPI_IN_PLACE, &usable, 1, MPI_INT, MPI_MIN, comm);
  if (usable == 0) return nullptr;

  if (block_bytes == 0) block_bytes = std::min(kDefaultBlockBytes, kMaxSegmentBytes / (size * kNumSlots));
  block_bytes = round_up(std::max(block_bytes, kLine * size), kLine * size);
  std::unique_ptr<SharedMemory> memory(new SharedMemory(rank, size, block_bytes));
  std::array<char, 64> name{};
  if (rank == 0) {
    const std::string text = "/tessera-" + std::to_string(getpid()) + "-" + std::to_string(id);
    std::copy(text.begin(), text.end(), name.begin());
    usable = memory->map(name.data(), true) ? 1 : 0;
  }
  MPI_Bcast(name.data(), static_cast<int>(name.size()), MPI_CHAR, 0, comm);
  if (rank != 0) usable = 1;
  MPI_Bcast(&usable, 1, MPI_INT, 0, comm);
  if (usable != 0 && rank != 0) usable = memory->map(name.data(), false) ? 1 : 0;
  MPI_Allreduce(MPI_IN_PLACE, &usable, 1, MPI_INT, MPI_MIN, comm);
  if (rank == 0) shm_unlink(name.data());  // nothing is left behind, however the job ends
  return usable != 0 ? std::move(memory) : nullptr;
}

SharedMemory::~SharedMemory() {
  if (base_ != nullptr) munmap(base_, static_cast<size_t>(total_bytes()));
}

SharedOperation::SharedOperation(SharedMemory& memory, std::string name, std::string site, int64_t bytes)
    : memory_(memory), name_(std::move(name)), site_(std::move(site)), bytes_(bytes) {}

void SharedOperation::barrier() {
  num_blocks_ = 1;
  write_ = [](int64_t, char*) {};
  read_ = [](int64_t) {};
}

void SharedOperation::broadcast(const at::Tensor& tensor, int root) {
  auto* data = static_cast<char*>(tensor.data_ptr());
  const int64_t size = static_cast<int64_t>(tensor.nbytes()), block = memory_.block_bytes_;
  const auto length = [=](int64_t b) { return std::min(block, size - b * block); };
  num_blocks_ = ceil_divide(size, block);
  write_ = [=, this](int64_t b, char* slot) {
    if (memory_.rank_ == root) copy(slot, data + b * block, length(b));
  };
  read_ = [=, this](int64_t b) {
    if (memory_.rank_ != root) copy(data + b * block, memory_.slot(root, first_ + b), length(b));
  };
}

void SharedOperation::all_gather(const at::Tensor& output, const at::Tensor& input) {
  auto* to = static_cast<char*>(output.data_ptr());
  const auto* from = static_cast<const char*>(input.data_ptr());
  const int64_t size = static_cast<int64_t>(input.nbytes()), block = memory_.block_bytes_;
  num_blocks_ = ceil_divide(size, block);
  write_ = [=, this](int64_t b, char* slot) {
    const int64_t begin = b * block, length = std::min(block, size - begin);
    copy(slot, from + begin, length);
    copy(to + memory_.rank_ * size + begin, from + begin, length);
  };
  read_ = [=, this](int64_t b) {
    const int64_t begin = b * block, length = std::min(block, size - begin);
    for (int rank = 0; rank < memory_.size_; ++rank) {
      if (rank != memory_.rank_) copy(to + rank * size + begin, memory_.slot(rank, first_ + b), length);
    }
  };
}

// A slot holds one part for each destination.
void SharedOperation::reduce_scatter(const at::Tensor& output, const at::Tensor& input, ReduceOp op) {
  auto* to = static_cast<char*>(output.data_ptr());
  const auto* from = static_cast<const char*>(input.data_ptr());
  const int64_t element = output.element_size(), size = static_cast<int64_t>(output.nbytes());
  const int64_t part = memory_.block_bytes_ / memory_.size_;
  num_blocks_ = ceil_divide(size, part);
  write_ = [=, this](int64_t b, char* slot) {
    const int64_t begin = b * part, length = std::min(part, size - begin);
    for (int rank = 0; rank < memory_.size_; ++rank) {
      if (rank != memory_.rank_) copy(slot + rank * part, from + rank * size + begin, length);
    }
  };
  read_ = [=, this, reduce = reduce_function(output.scalar_type()),
           sources = std::vector<const char*>(static_cast<size_t>(memory_.size_))](int64_t b) mutable {
    const int64_t begin = b * part, length = std::min(part, size - begin);
    for (int rank = 0; rank < memory_.size_; ++rank) {
      sources[static_cast<size_t>(rank)] = rank == memory_.rank_ ? from + rank * size + begin
                                                                  : memory_.slot(rank, first_ + b) + memory_.rank_ * part;
    }
    reduce(op, to + begin, sources, length / element);
  };
}

void SharedOperation::all_reduce_whole(const at::Tensor& tensor, ReduceOp op) {
  auto* data = static_cast<char*>(tensor.data_ptr());
  const int64_t size = static_cast<int64_t>(tensor.nbytes());
  num_blocks_ = size > 0 ? 1 : 0;
  write_ = [=](int64_t, char* slot) { copy(slot, data, size); };
  read_ = [=, this, count = tensor.numel(), reduce = reduce_function(tensor.scalar_type())](int64_t) {
    std::vector<const char*> sources;
    for (int rank = 0; rank < memory_.size_; ++rank) sources.push_back(memory_.slot(rank, first_));
    reduce(op, data, sources, count);
  };
}

// Every chunk takes two blocks: in the first each rank hands the others their parts and reduces its own; in the second
// it hands out its reduced part. They interleave, so that while a rank waits for one it can write the next:
// scatter 0, scatter 1, gather 0, scatter 2, gather 1, ..., gather m-1.
void SharedOperation::all_reduce(const at::Tensor& tensor, ReduceOp op) {
  if (static_cast<int64_t>(tensor.nbytes()) <= std::min(kWholeBytes, memory_.block_bytes_)) {
    return all_reduce_whole(tensor, op);
  }
  auto* data = static_cast<char*>(tensor.data_ptr());
  const int64_t size = static_cast<int64_t>(tensor.nbytes()), element = tensor.element_size();
  const int ranks = memory_.size_, own = memory_.rank_;
  const int64_t chunk = memory_.block_bytes_, num_chunks = ceil_divide(size, chunk);

  struct Part {
    int64_t begin, length;
  };
  // The last chunk is shorter; each is cut evenly, at cache lines.
  const auto part_of = [=](int64_t c, int rank) -> Part {
    const int64_t length = std::min(chunk, size - c * chunk);
    const int64_t part = round_up(ceil_divide(length, ranks), kLine);
    const int64_t begin = std::min(part * rank, length);
    return {c * chunk + begin, std::min(part, length - begin)};
  };
  const auto is_gather = [=](int64_t b) { return b == 2 * num_chunks - 1 || (b > 0 && b % 2 == 0); };
  const auto chunk_of = [=](int64_t b) {
    if (b == 2 * num_chunks - 1) return num_chunks - 1;
    return b == 0 ? 0 : b % 2 == 1 ? (b + 1) / 2 : b / 2 - 1;
  };
  const auto scatter_block = [=](int64_t c) { return c == 0 ? 0 : 2 * c - 1; };

  num_blocks_ = 2 * num_chunks;
  reads_before_write_ = [=](int64_t b) { return is_gather(b) ? scatter_block(chunk_of(b)) + 1 : 0; };
  write_ = [=](int64_t b, char* slot) {
    const int64_t c = chunk_of(b);
    const int64_t base = c * chunk;
    for (int rank = 0; rank < ranks; ++rank) {
      if ((rank == own) != is_gather(b)) continue;
      const Part part = part_of(c, rank);
      copy(slot + (part.begin - base), data + part.begin, part.length);
    }
  };
  read_ = [=, this, reduce = reduce_function(tensor.scalar_type()),
           sources = std::vector<const char*>(static_cast<size_t>(ranks))](int64_t b) mutable {
    const int64_t c = chunk_of(b);
    const int64_t base = c * chunk;
    if (is_gather(b)) {
      for (int rank = 0; rank < ranks; ++rank) {
        if (rank == own) continue;
        const Part part = part_of(c, rank);
        copy(data + part.begin, memory_.slot(rank, first_ + b) + (part.begin - base), part.length);
      }
      return;
    }
    const Part part = part_of(c, own);
    for (int rank = 0; rank < ranks; ++rank) {
      sources[static_cast<size_t>(rank)] =
          rank == own ? data + part.begin : memory_.slot(rank, first_ + b) + (part.begin - base);
    }
    reduce(op, data + part.begin, sources, part.length / element);
  };
}

void SharedOperation::check_headers(const std::vector<int>& world_ranks) const {
  Callers callers;
  for (int rank = 0; rank < memory_.size_; ++rank) {
    const SharedMemory::SlotHeader& header = memory_.header(rank, first_);
    callers[describe_call(header.name, header.site, header.bytes, header.sequence)].push_back(world_ranks[static_cast<size_t>(rank)]);
  }
  if (callers.size() > 1) throw CommError("failed: " + describe_callers(callers));
}

Operation::Progress SharedOperation::step(int64_t sequence, const std::vector<int>& world_ranks) {
  using Progress = Operation::Progress;
  if (first_ < 0) {
    first_ = memory_.next_block_;
    memory_.next_block_ += num_blocks_;
  }
  const auto all_reached = [&](std::atomic<int64_t> SharedMemory::Flags::* flag, int64_t block) {
    for (int rank = 0; rank < memory_.size_; ++rank) {
      if ((memory_.flags(rank).*flag).load(std::memory_order_acquire) <= block) return false;
    }
    return true;
  };
  Progress progress = Progress::kNone;
  for (bool moved = true; moved && read_so_far_ < num_blocks_;) {
    moved = false;
    const int64_t w = first_ + written_;
    if (written_ < num_blocks_ && all_reached(&SharedMemory::Flags::read, w - SharedMemory::kNumSlots) &&
        (!reads_before_write_ || read_so_far_ >= reads_before_write_(written_))) {
      if (written_ == 0) {
        auto& header = memory_.header(memory_.rank_, w);
        header.sequence = sequence;
        header.bytes = bytes_;
        copy_text(header.name, name_);
        copy_text(header.site, site_);
      }
      write_(written_++, memory_.slot(memory_.rank_, w));
      memory_.flags(memory_.rank_).written.store(w + 1, std::memory_order_release);
      moved = true;
    }
    const int64_t r = first_ + read_so_far_;
    if (all_reached(&SharedMemory::Flags::written, r)) {
      if (read_so_far_ == 0) check_headers(world_ranks);
      read_(read_so_far_++);
      memory_.flags(memory_.rank_).read.store(r + 1, std::memory_order_release);
      moved = true;
    }
    if (moved) progress = Progress::kSome;
  }
  return read_so_far_ == num_blocks_ ? Progress::kComplete : progress;
}

}  // namespace tessera::parallel
