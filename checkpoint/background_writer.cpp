#include "checkpoint/background_writer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <utility>

namespace tessera::checkpoint {

BackgroundWriter::BackgroundWriter(parallel::Communicator& world) : world_(world.split(std::vector<int>(static_cast<size_t>(world.size()), 0), kAxis)) {}

BackgroundWriter::~BackgroundWriter() {
  if (thread_.joinable()) thread_.join();
}

std::vector<OwnedRange> BackgroundWriter::copied(const std::vector<OwnedRange>& ranges) {
  const at::NoGradGuard no_grad;
  int64_t size = 0;
  for (const auto& range : ranges) size += range.data.numel();
  if (!buffer_.defined() || buffer_.numel() != size) buffer_ = at::empty({size}, at::kFloat);
  std::vector<OwnedRange> copies = ranges;
  int64_t begin = 0;
  for (auto& range : copies) {
    at::Tensor copy = buffer_.narrow(0, begin, range.data.numel());
    begin += range.data.numel();
    copy.copy_(range.data);
    range.data = copy;
  }
  return copies;
}

void BackgroundWriter::save(const std::filesystem::path& folder, int64_t step, const std::vector<OwnedRange>& ranges, const nlohmann::json& state,
                            int64_t keep) {
  finish();
  thread_ = std::thread([this, folder, step, state, keep, copies = copied(ranges)] {
    try {
      write_checkpoint(folder, step, copies, state, *world_);
      if (world_->rank() == 0) apply_retention(folder, keep);
    } catch (...) {
      error_ = std::current_exception();
      failed_ = true;
    }
  });
}

void BackgroundWriter::check() {
  if (failed_) finish();
}

void BackgroundWriter::finish() {
  if (thread_.joinable()) thread_.join();
  failed_ = false;
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

}  // namespace tessera::checkpoint
