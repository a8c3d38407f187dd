// Runs GoogleTest on every rank. Rank 0 prints; the other ranks print failures only. Exits non-zero on every rank if a
// test failed on any.
#include "mpi_main.h"
#include "parallel/c10d_communicator.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdlib>
#include <iostream>

namespace tessera::parallel {
namespace {

MpiContext* context = nullptr;
Communicator *world = nullptr, *mpi_world = nullptr;

class RankPrinter final : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::cerr << "rank " << context->rank() << ": " << result.file_name() << ":" << result.line_number() << ": "
              << result.message() << std::endl;
  }
};

}  // namespace

Communicator& test_world() { return *world; }
extern "C" Communicator* twin_world_pointer() { return mpi_world; }
MpiContext& test_context() { return *context; }

}  // namespace tessera::parallel

int main(int argc, char** argv) {
  using namespace tessera::parallel;
  testing::InitGoogleTest(&argc, argv);
  MpiOptions options;
  options.timeout_seconds = 20;
  // The tests run twice: small pieces through MPI, and the shared-memory path in small blocks.
  if (const char* path = std::getenv("TESSERA_TEST_SHARED_MEMORY")) options.shared_memory = std::atoi(path) != 0;
  options.max_elements_per_call = 7;
  options.shared_block_bytes = 256;
  MpiContext mpi(options);
  context = &mpi;
  const auto communicator = mpi.world();
  world = mpi_world = communicator.get();
  // Once more through a device backend: a plug-in's, over MPI.
  DeviceRegistry devices;
  std::unique_ptr<Communicator> wrapped;
  if (const char* plugin = std::getenv("TESSERA_TEST_PLUGIN")) {
    devices.load_plugin(plugin);
    wrapped = make_c10d_communicator(*communicator, devices.find("twin"), {.timeout_seconds = 20});
    world = wrapped.get();
  }
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (mpi.rank() != 0) {
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new RankPrinter);
  }
  const int failed = RUN_ALL_TESTS();
  if (!mpi.healthy()) mpi.abort(1);
  at::Tensor any = torch::tensor({failed}, torch::kInt);
  communicator->all_reduce(any, ReduceOp::kMax)->wait();
  return any.item<int>() == 0 ? 0 : 1;
}
