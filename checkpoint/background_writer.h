// Saving while training goes on: what is to be saved is copied, and a thread writes the copy.
#pragma once

#include <atomic>
#include <exception>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "checkpoint/writer.h"
#include "parallel/communicator.h"

namespace tessera::checkpoint {

class BackgroundWriter final {
 public:
  static constexpr const char* kAxis = "checkpoint";  // of its communication, which no step waits for

  /// Collective: the thread has a communicator of its own over the ranks of `world`.
  explicit BackgroundWriter(parallel::Communicator& world);
  /// Waits for the thread; what went wrong in it is lost.
  ~BackgroundWriter();
  BackgroundWriter(const BackgroundWriter&) = delete;
  BackgroundWriter& operator=(const BackgroundWriter&) = delete;

  /// Copies `ranges`, whose memory the caller may change when this returns, and begins to write them as write_checkpoint does;
  /// afterwards keeps the newest `keep`. Waits for the save before it. Collective. Throws what went wrong in that one.
  void save(const std::filesystem::path& folder, int64_t step, const std::vector<OwnedRange>& ranges, const nlohmann::json& state, int64_t keep);
  /// Throws CheckpointError when a save has failed since; does not wait.
  void check();
  /// Waits for the save under way and throws what went wrong in it.
  void finish();

 private:
  [[nodiscard]] std::vector<OwnedRange> copied(const std::vector<OwnedRange>& ranges);

  std::unique_ptr<parallel::Communicator> world_;
  at::Tensor buffer_;  // kept from save to save: fresh memory costs as much as the copy
  std::thread thread_;
  std::exception_ptr error_;
  std::atomic<bool> failed_ = false;
};

}  // namespace tessera::checkpoint
