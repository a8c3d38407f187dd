#include "tests/cuda/emulation.h"

#include <ucontext.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

namespace tessera::emulation {

namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr unsigned kWarp = 32;

enum class State { kRuns, kWaitsForBlock, kWaitsForWarp, kDone };

struct Fiber {
  ucontext_t context{};
  std::unique_ptr<char[]> stack = std::make_unique<char[]>(kStackBytes);
};

/// One block. A fiber runs threads from their beginning to their end, one after the other, until one of them waits; that one keeps the fiber.
class BlockRun {
 public:
  BlockRun(unsigned threads, const std::function<void()>& kernel, std::mt19937& random, std::deque<Fiber>& fibers)
      : kernel_(kernel), random_(random), fibers_(fibers), state_(threads, State::kRuns), fiber_of_(threads), order_(threads), given_(2 * threads),
        exchanges_(threads, 0) {
    std::iota(order_.begin(), order_.end(), 0U);
    std::shuffle(order_.begin(), order_.end(), random_);
    for (Fiber& fiber : fibers_) idle_.push_back(&fiber);
  }

  void run() {
    while (next_ < order_.size()) resume(idle_fiber());
    for (auto released = release(); !released.empty(); released = release())
      for (const unsigned thread : released) {
        state_[thread] = State::kRuns;
        current_ = thread;
        resume(fiber_of_[thread]);
      }
    if (std::any_of(state_.begin(), state_.end(), [](State s) { return s != State::kDone; }))
      throw std::logic_error("threads of a block wait for each other at different barriers, or for a lane that has left");
  }

  void wait(State where) {
    const unsigned self = current_;
    state_[self] = where;
    fiber_of_[self] = running_;
    swapcontext(&running_->context, &scheduler_);
  }

  const uint64_t* exchange(uint64_t value) {
    const unsigned self = current_;
    const size_t page = static_cast<size_t>(exchanges_[self]++ % 2) * state_.size();
    given_[page + self] = value;
    wait(State::kWaitsForWarp);
    return given_.data() + page + self / kWarp * kWarp;
  }

  static BlockRun* active;

 private:
  Fiber* idle_fiber() {
    if (idle_.empty()) {
      Fiber& fiber = fibers_.emplace_back();
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStackBytes;
      makecontext(&fiber.context, &BlockRun::work, 0);
      return &fiber;
    }
    Fiber* const fiber = idle_.back();
    idle_.pop_back();
    return fiber;
  }

  void resume(Fiber* fiber) {
    running_ = fiber;
    thread = dim3(current_);
    swapcontext(&scheduler_, &fiber->context);
  }

  /// A fiber's life: it outlives blocks.
  static void work() {
    Fiber* const self = active->running_;
    for (;;) {
      while (active->next_ < active->order_.size()) {
        active->current_ = active->order_[active->next_++];
        thread = dim3(active->current_);
        active->kernel_();
        active->state_[active->current_] = State::kDone;
      }
      active->idle_.push_back(self);
      swapcontext(&self->context, &active->scheduler_);
    }
  }

  /// Threads that need wait no longer, in some order.
  std::vector<unsigned> release() {
    std::vector<unsigned> released;
    const auto count = static_cast<unsigned>(state_.size());
    for (unsigned first = 0; first < count; first += kWarp)
      if (std::all_of(state_.begin() + first, state_.begin() + first + kWarp, [](State s) { return s == State::kWaitsForWarp; }))
        for (unsigned t = first; t < first + kWarp; ++t) released.push_back(t);
    if (released.empty() && std::all_of(state_.begin(), state_.end(), [](State s) { return s == State::kWaitsForBlock || s == State::kDone; }))
      for (unsigned t = 0; t < count; ++t)
        if (state_[t] == State::kWaitsForBlock) released.push_back(t);
    std::shuffle(released.begin(), released.end(), random_);
    return released;
  }

  const std::function<void()>& kernel_;
  std::mt19937& random_;
  std::deque<Fiber>& fibers_;
  std::vector<Fiber*> idle_;
  std::vector<State> state_;
  std::vector<Fiber*> fiber_of_;
  std::vector<unsigned> order_;
  std::vector<uint64_t> given_;
  std::vector<unsigned> exchanges_;
  size_t next_ = 0;
  unsigned current_ = 0;
  Fiber* running_ = nullptr;
  ucontext_t scheduler_{};
};

BlockRun* BlockRun::active = nullptr;

}  // namespace

void run(dim3 blocks, int threads, const std::function<void()>& kernel) {
  static std::mutex one_launch;
  static std::mt19937 random(1);
  // Of this OS thread: a fiber that has begun on one must not go on on another.
  static thread_local std::deque<Fiber> fibers;
  const std::lock_guard lock(one_launch);
  if (blocks.x == 0 || blocks.y > 65535 || blocks.z > 65535 || blocks.y * blocks.z == 0 || threads % static_cast<int>(kWarp) != 0)
    throw std::logic_error("a launch that no GPU takes");
  grid = blocks;
  std::vector<uint64_t> order(uint64_t{blocks.x} * blocks.y * blocks.z);
  std::iota(order.begin(), order.end(), uint64_t{0});
  std::shuffle(order.begin(), order.end(), random);
  for (const uint64_t i : order) {
    block = dim3(static_cast<unsigned>(i % blocks.x), static_cast<unsigned>(i / blocks.x % blocks.y), static_cast<unsigned>(i / blocks.x / blocks.y));
    BlockRun one(static_cast<unsigned>(threads), kernel, random, fibers);
    BlockRun::active = &one;
    try {
      one.run();
    } catch (...) {
      fibers.clear();  // some are in the middle of a thread
      throw;
    }
  }
}

void wait_for_block() { BlockRun::active->wait(State::kWaitsForBlock); }
void wait_for_warp() { BlockRun::active->wait(State::kWaitsForWarp); }
const uint64_t* exchange(uint64_t value) { return BlockRun::active->exchange(value); }

}  // namespace tessera::emulation
