#include "rl/stale_rollouts.h"

#include <ATen/Parallel.h>

#include <utility>

#include "core/error.h"

namespace tessera::rl {

StaleRollouts::StaleRollouts(trainer::Stages& live, const trainer::TrainerConfig& config, parallel::Communicator& world, RolloutMaker& maker,
                             const Prompts& prompts)
    : world_(world), maker_(maker), prompts_(prompts), copy_(live, config, world) {}

StaleRollouts::~StaleRollouts() {
  given_up_ = true;
  if (thread_.joinable()) thread_.join();
}

void StaleRollouts::start(int64_t first_prompt, int64_t num_prompts, bool with_samples) {
  TESSERA_CHECK(!running());
  copy_.refresh();
  thread_ = std::thread([this, first_prompt, num_prompts, with_samples] {
    try {
      at::init_num_threads();  // OpenMP's default in a new thread is another than the program's
      // The longest completions of one rank are not those of another.
      const auto busy = copy_.mesh().world().announce("making rollouts");
      phase_ = maker_.make(policy_of(copy_.stages(), copy_.mesh()), prompts_, first_prompt, num_prompts, with_samples, [this](int64_t) {
        if (given_up_) throw Error("rollouts were given up");
      });
      phase_.stale = true;
    } catch (...) {
      error_ = std::current_exception();
      failed_ = true;
    }
  });
}

void StaleRollouts::check() {
  if (failed_) (void)finish();
}

Phase StaleRollouts::finish() {
  {
    const auto busy = world_.announce("waiting for rollouts");
    thread_.join();
  }
  failed_ = false;
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  return std::move(phase_);
}

}  // namespace tessera::rl
