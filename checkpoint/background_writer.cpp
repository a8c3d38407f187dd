#include "checkpoint/background_writer.h"

#include <ATen/ops/empty.h>

#include <cstring>
#include <numeric>
#include <utility>

#include "core/error.h"

namespace tessera::checkpoint {

namespace {

/// Each range begins where any dtype may.
int64_t room_for(const OwnedRange& range) { return (static_cast<int64_t>(range.data.nbytes()) + 63) / 64 * 64; }

int64_t room_for(const std::vector<OwnedRange>& ranges) {
  return std::accumulate(ranges.begin(), ranges.end(), int64_t{0}, [](int64_t sum, const OwnedRange& range) { return sum + room_for(range); });
}

}  // namespace

BackgroundWriter::BackgroundWriter(parallel::Communicator& world)
    : job_(world), world_(world.duplicate("checkpoint")) {}

BackgroundWriter::~BackgroundWriter() {
  if (thread_.joinable()) thread_.join();
}

void BackgroundWriter::prepare(const std::vector<OwnedRange>& ranges) {
  finish();
  thread_ = std::thread([this, size = room_for(ranges)] {
    try {
      buffer_ = at::empty({size}, at::kByte);
      std::memset(buffer_.data_ptr(), 0, buffer_.nbytes());
    } catch (...) {
      buffer_.reset();  // the first save will say so
    }
  });
}

// One thread: the others are the training's.
void BackgroundWriter::copy(std::vector<OwnedRange>& ranges) {
  const int64_t size = room_for(ranges);
  if (!buffer_.defined() || buffer_.numel() != size) buffer_ = at::empty({size}, at::kByte);
  int64_t begin = 0;
  for (auto& range : ranges) {
    at::Tensor copy = buffer_.narrow(0, begin, static_cast<int64_t>(range.data.nbytes())).view(range.data.scalar_type());
    begin += room_for(range);
    std::memcpy(copy.data_ptr(), range.data.const_data_ptr(), copy.nbytes());
    range.data = std::move(copy);
  }
}

void BackgroundWriter::save(const std::filesystem::path& folder, int64_t step, std::vector<OwnedRange> ranges, const nlohmann::json& state,
                            int64_t keep) {
  finish();
  for (const auto& range : ranges) TESSERA_CHECK(range.data.is_contiguous(), range.name);
  copied_ = false;
  writing_ = true;
  thread_ = std::thread([this, folder, step, state, keep, ranges = std::move(ranges)]() mutable {
    const auto tell_copied = [this] {
      {
        const std::lock_guard lock(mutex_);
        copied_ = true;
      }
      has_copied_.notify_all();
    };
    try {
      copy(ranges);
      tell_copied();
      write_checkpoint(folder, step, ranges, state, *world_);
      if (world_->rank() == 0) apply_retention(folder, keep);
    } catch (...) {
      error_ = std::current_exception();
      failed_ = true;
      tell_copied();
    }
    writing_ = false;
  });
}

void BackgroundWriter::wait_until_copied() {
  std::unique_lock lock(mutex_);
  has_copied_.wait(lock, [this] { return copied_; });
}

void BackgroundWriter::check() {
  if (failed_) finish();
}

void BackgroundWriter::finish() {
  // Peers may wait for this rank meanwhile, elsewhere than for the save.
  const auto busy = writing_ ? job_.announce("saving checkpoint") : nullptr;
  if (thread_.joinable()) thread_.join();
  failed_ = false;
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

}  // namespace tessera::checkpoint
