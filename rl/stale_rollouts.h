// Rollouts beside training: a thread makes the next phase with a copy of the weights of now, over communicators of its own, while the
// live weights are trained on the phase before.
#pragma once

#include <atomic>
#include <exception>
#include <thread>

#include "rl/rollouts.h"
#include "trainer/model_copy.h"

namespace tessera::rl {

class StaleRollouts final {
 public:
  /// `live` has been made trainable; all that is given but `config` must outlive this. Collective over `world`.
  StaleRollouts(trainer::Stages& live, const trainer::TrainerConfig& config, parallel::Communicator& world, RolloutMaker& maker, const Prompts& prompts);
  /// Gives up what is under way.
  ~StaleRollouts();
  StaleRollouts(const StaleRollouts&) = delete;
  StaleRollouts& operator=(const StaleRollouts&) = delete;

  /// Takes the weights of now and begins RolloutMaker::make. Nobody else may use the maker until finish().
  void start(int64_t first_prompt, int64_t num_prompts, bool with_samples);
  [[nodiscard]] bool running() const { return thread_.joinable(); }
  /// Throws what has gone wrong in the thread; does not wait.
  void check();
  /// Waits for the phase, or throws what went wrong.
  Phase finish();

 private:
  parallel::Communicator& world_;
  RolloutMaker& maker_;
  const Prompts& prompts_;
  trainer::ModelCopy copy_;
  std::thread thread_;
  std::atomic<bool> failed_ = false, given_up_ = false;
  std::exception_ptr error_;
  Phase phase_;
};

}  // namespace tessera::rl
