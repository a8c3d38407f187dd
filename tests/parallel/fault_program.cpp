// Misbehaves in the way its argument names; faults_test.sh runs it under mpirun and checks how the job ends.
#include <torch/torch.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>

#include "core/error.h"
#include "parallel/mpi_communicator.h"

namespace {

using namespace tessera::parallel;

void sleep_seconds(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

void misbehave(const std::string& fault, MpiContext& context, Communicator& world) {
  const bool bad = world.rank() == 1;
  const auto other = world.split(std::vector<int>(static_cast<size_t>(world.size()), 0), "dp");
  at::Tensor tensor = torch::ones({100000});
  const auto reduce = [&] { other->all_reduce(tensor)->wait(); };
  reduce();
  reduce();
  if (fault == "skip") {
    if (bad) sleep_seconds(60);
    reduce();
  } else if (fault == "skip_and_go_on") {
    if (!bad) reduce();
    world.barrier();
    sleep_seconds(60);
  } else if (fault == "mismatch") {
    if (bad) tensor = torch::ones({50000});
    reduce();
  } else if (fault == "stop") {
    if (bad) std::raise(SIGSTOP);
    reduce();
  } else if (fault == "stop_at_end") {
    if (bad) std::raise(SIGSTOP);
  } else if (fault == "kill") {
    if (bad) std::raise(SIGKILL);
    reduce();
  } else if (fault == "exchange") {
    if (bad) sleep_seconds(60);
    if (world.rank() == 0) other->exchange({}, {{tensor, 1, 0}})->wait();
    sleep_seconds(60);
  } else if (fault == "throw") {
    if (bad) throw tessera::ConfigError("one rank gives up");
    reduce();
  } else if (fault == "phase") {
    if (bad) {
      const auto phase = context.announce("saving checkpoint");
      sleep_seconds(6);
    }
    if (bad) sleep_seconds(1);
    reduce();
  } else if (fault == "phase_behind_a_peer") {  // rank 0 waits for rank 1, which waits for rank 2, which saves
    if (world.rank() == 2) {
      const auto phase = context.announce("saving checkpoint");
      sleep_seconds(6);
    }
    if (world.rank() != 0) {
      at::Tensor in = torch::zeros({4}), out = torch::ones({4});
      world.exchange({{out, 3 - world.rank(), 0}}, {{in, 3 - world.rank(), 0}})->wait();
    }
    reduce();
  } else if (fault == "slow_end") {
    if (bad) sleep_seconds(6);
  } else {
    throw tessera::Error("unknown fault " + fault);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string fault = argc > 1 ? argv[1] : "";
  MpiOptions options;
  options.timeout_seconds = 2;
  if (const char* path = std::getenv("TESSERA_TEST_SHARED_MEMORY")) options.shared_memory = std::atoi(path) != 0;
  MpiContext context(options);
  const auto world = context.world();
  try {
    misbehave(fault, context, *world);
  } catch (const std::exception& error) {
    std::cerr << "rank " << context.rank() << ": " << error.what() << std::endl;
    context.abort(3);
  }
  return 0;
}
