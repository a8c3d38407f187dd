// Saving while training goes on: a thread copies what is to be saved and writes the copy. The state of a run changes in the
// update at the end of a step only, so that the copy is made beside the next step's forward and backward pass.
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <filesystem>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "checkpoint/writer.h"
#include "parallel/communicator.h"

namespace tessera::checkpoint {

class BackgroundWriter final {
 public:
  /// Collective: the thread has a communicator of its own over the ranks of `world`.
  explicit BackgroundWriter(parallel::Communicator& world);
  /// Waits for the thread; what went wrong in it is lost.
  ~BackgroundWriter();
  BackgroundWriter(const BackgroundWriter&) = delete;
  BackgroundWriter& operator=(const BackgroundWriter&) = delete;

  /// Fetches the memory for saves of such ranges, in the thread: memory that was never touched is several times slower to copy to.
  void prepare(const std::vector<OwnedRange>& ranges);
  /// Begins to copy `ranges` and to write the copy as write_checkpoint does; afterwards keeps the newest `keep`. Call
  /// wait_until_copied before changing their memory. Waits for the save before it. Collective. Throws what went wrong in that one.
  void save(const std::filesystem::path& folder, int64_t step, std::vector<OwnedRange> ranges, const nlohmann::json& state, int64_t keep);
  /// From here on the memory that the last save was given may be changed.
  void wait_until_copied();
  /// Throws CheckpointError when a save has failed since; does not wait.
  void check();
  /// Waits for the save under way and throws what went wrong in it.
  void finish();

 private:
  void copy(std::vector<OwnedRange>& ranges);

  parallel::Communicator& job_;
  std::unique_ptr<parallel::Communicator> world_;
  at::Tensor buffer_;  // kept from save to save: fresh memory costs as much as the copy
  std::thread thread_;
  std::exception_ptr error_;
  std::atomic<bool> failed_ = false, writing_ = false;
  std::mutex mutex_;
  std::condition_variable has_copied_;
  bool copied_ = true;
};

}  // namespace tessera::checkpoint
