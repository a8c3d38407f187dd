// Saving in the background on several ranks, while they go on communicating.
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "checkpoint/background_writer.h"
#include "checkpoint/manifest.h"
#include "checkpoint/reader.h"
#include "core/error.h"
#include "core/file.h"
#include "parallel/text_exchange.h"
#include "tests/parallel/mpi_main.h"
#include "tests/support/support.h"

namespace tessera::checkpoint {
namespace {

using parallel::test_world;
constexpr int64_t kSize = 1 << 18;

/// A folder that all ranks see.
std::filesystem::path shared_folder(const test::TemporaryFolder& own) { return parallel::broadcast_text(test_world(), own.path().string()); }

TEST(BackgroundWriterOnSeveralRanks, WritesWhatWasThereWhileRanksTalk) {
  auto& world = test_world();
  const test::TemporaryFolder own;
  const auto folder = shared_folder(own);
  BackgroundWriter writer(world);
  at::Tensor data = torch::zeros({kSize}), sum = torch::zeros({5000});
  for (int64_t step = 1; step <= 4; ++step) {
    std::fill_n(data.data_ptr<float>(), kSize, static_cast<float>(10 * step + world.rank()));
    writer.save(folder, step, {{"weight", "w", world.rank() * kSize, data}}, {{"step", step}}, 2);
    for (int i = 0; i < 20; ++i) {
      sum.fill_(1);
      world.all_reduce(sum)->wait();
      EXPECT_EQ(sum[0].item<float>(), world.size());
    }
    writer.wait_until_copied();
    std::fill_n(data.data_ptr<float>(), kSize, -1.0f);
    writer.check();
  }
  writer.finish();
  world.barrier();
  for (int64_t step : {3, 4}) {
    const auto path = folder / step_folder_name(step);
    at::Tensor read = torch::zeros({world.size() * kSize});
    CheckpointReader(path, read_and_verify(path)).read("weight", "w", 0, read);
    for (int rank = 0; rank < world.size(); ++rank)
      EXPECT_TRUE(read.narrow(0, rank * kSize, kSize).eq(10.0 * static_cast<double>(step) + rank).all().item<bool>());
  }
  world.barrier();  // rank 0's folder goes with it
}

TEST(BackgroundWriterOnSeveralRanks, AllRanksLearnWhatWentWrongInOne) {
  auto& world = test_world();
  const test::TemporaryFolder own;
  const auto folder = shared_folder(own) / "file";
  if (world.rank() == 0) write_file_atomically(folder, "in the way");
  world.barrier();
  BackgroundWriter writer(world);
  writer.save(folder, 1, {{"weight", "w", 0, torch::zeros({3})}}, {}, 2);
  EXPECT_THAT(test::message_of<CheckpointError>([&] { writer.finish(); }), testing::HasSubstr("cannot write checkpoint"));
  world.barrier();
}

}  // namespace
}  // namespace tessera::checkpoint
