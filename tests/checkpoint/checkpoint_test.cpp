// Writing and reading checkpoints with one rank; the ranges of several ranks are stood in for by several ranges.
#include <torch/torch.h>

#include <algorithm>

#include "checkpoint/background_writer.h"
#include "checkpoint/manifest.h"
#include "checkpoint/reader.h"
#include "checkpoint/writer.h"
#include "core/error.h"
#include "core/file.h"
#include "tests/support/support.h"

namespace tessera::checkpoint {
namespace {

using test::message_of;
using test::TemporaryFolder;

const auto world = parallel::make_self_communicator();

/// [0, 1, 2, ...) of tensor "w", stored as the given ranges, and one of "v".
void write(const std::filesystem::path& folder, int64_t step, const std::vector<int64_t>& cuts = {0, 7, 8, 20}) {
  std::vector<OwnedRange> ranges;
  for (size_t i = 0; i + 1 < cuts.size(); ++i)
    ranges.push_back({"weight", "w", cuts[i], torch::arange(cuts[i], cuts[i + 1], torch::kFloat)});
  ranges.push_back({"exp_avg", "w", 0, torch::full({20}, 0.5f)});
  ranges.push_back({"weight", "v", 0, torch::full({3}, static_cast<float>(step))});
  write_checkpoint(folder, step, ranges, {{"updates", step}}, *world);
}

std::vector<std::string> entries(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(Checkpoint, AnyRangeIsReadFromSeveralStoredOnes) {
  const TemporaryFolder folder;
  write(folder.path(), 5);
  EXPECT_THAT(entries(folder.path()), testing::ElementsAre("step-00000005"));
  CheckpointReader reader(folder / "step-00000005", read_and_verify(folder / "step-00000005"));
  EXPECT_EQ(reader.manifest().step, 5);
  EXPECT_EQ(reader.manifest().state["updates"], 5);
  EXPECT_TRUE(reader.has("weight", "w"));
  EXPECT_FALSE(reader.has("weight", "u"));
  EXPECT_FALSE(reader.has("exp_avg_sq", "w"));
  for (int64_t begin = 0; begin < 20; ++begin) {
    for (int64_t end = begin; end <= 20; ++end) {
      at::Tensor out = torch::full({end - begin}, -1.0f);
      reader.read("weight", "w", begin, out);
      EXPECT_TRUE(out.equal(torch::arange(begin, end, torch::kFloat))) << begin << ".." << end;
    }
  }
  at::Tensor moment = torch::zeros({4});
  reader.read("exp_avg", "w", 16, moment);
  EXPECT_TRUE(moment.equal(torch::full({4}, 0.5f)));
}

TEST(BackgroundWriter, WritesWhatWasThereWhenItWasAsked) {
  const TemporaryFolder folder;
  BackgroundWriter writer(*world);
  at::Tensor data = torch::zeros({1 << 20});
  for (int64_t step = 1; step <= 3; ++step) {
    data.fill_(static_cast<double>(step));
    writer.save(folder.path(), step, {{"weight", "w", 0, data}}, {}, 2);
    writer.wait_until_copied();
    std::fill_n(data.data_ptr<float>(), data.numel(), -1.0f);  // not fill_, which the thread sanitizer would not see
  }
  writer.finish();
  EXPECT_THAT(entries(folder.path()), testing::ElementsAre("step-00000002", "step-00000003"));
  for (int64_t step : {2, 3}) {
    const auto path = folder / step_folder_name(step);
    at::Tensor read = torch::zeros({1 << 20});
    CheckpointReader(path, read_and_verify(path)).read("weight", "w", 0, read);
    EXPECT_TRUE(read.eq(static_cast<double>(step)).all().item<bool>());
  }
}

TEST(BackgroundWriter, TellsWhatWentWrongLater) {
  const TemporaryFolder folder;
  write_file_atomically(folder / "file", "in the way");
  BackgroundWriter writer(*world);
  writer.save(folder / "file", 1, {{"weight", "w", 0, torch::zeros({3})}}, {}, 2);
  EXPECT_THAT(message_of<CheckpointError>([&] { writer.finish(); }), testing::HasSubstr("cannot write checkpoint"));
  writer.finish();  // told once
}

TEST(Checkpoint, WhatIsNotStoredIsNamed) {
  const TemporaryFolder folder;
  std::vector<OwnedRange> ranges = {{"weight", "w", 0, torch::zeros({5})}, {"weight", "w", 9, torch::zeros({3})}};
  write_checkpoint(folder.path(), 1, ranges, {}, *world);
  CheckpointReader reader(folder / "step-00000001", read_and_verify(folder / "step-00000001"));
  EXPECT_THAT(message_of<CheckpointError>([&] { reader.read("weight", "w", 0, torch::zeros({12})); }), testing::HasSubstr("'w' lacks elements 5..12"));
  EXPECT_THAT(message_of<CheckpointError>([&] { reader.read("weight", "w", 9, torch::zeros({4})); }), testing::HasSubstr("lacks elements 12..13"));
  EXPECT_THAT(message_of<CheckpointError>([&] { reader.read("weight", "u", 0, torch::zeros({1})); }), testing::HasSubstr("holds no weight of 'u'"));
}

TEST(Checkpoint, EveryDamagedFileIsNamed) {
  const TemporaryFolder folder;
  write(folder.path(), 1);
  const auto step = folder / "step-00000001";
  for (const std::string name : {"shard-00000-of-00001.safetensors", "manifest.json"}) {
    const std::string good = read_text_file(step / name);
    for (const size_t byte : {size_t{0}, good.size() / 2, good.size() - 2}) {
      std::string bad = good;
      bad[byte] = static_cast<char>(bad[byte] ^ 1);
      write_file_atomically(step / name, bad);
      EXPECT_THAT(message_of<CheckpointError>([&] { (void)read_and_verify(step); }), testing::HasSubstr(name)) << byte;
    }
    write_file_atomically(step / name, good);
    EXPECT_EQ(read_and_verify(step).step, 1);
  }
  std::filesystem::remove(step / "shard-00000-of-00001.safetensors");
  EXPECT_THAT(message_of<CheckpointError>([&] { (void)read_and_verify(step); }), testing::HasSubstr("is missing"));
  std::filesystem::remove(step / "manifest.json");
  EXPECT_THAT(message_of<CheckpointError>([&] { (void)read_and_verify(step); }), testing::HasSubstr("it has no manifest.json"));
}

TEST(Checkpoint, TheSameStepIsWrittenAnew) {
  const TemporaryFolder folder;
  write(folder.path(), 3);
  write_file_atomically(folder / "step-00000003" / "manifest.json", "damaged");
  write(folder.path(), 3, {0, 20});
  EXPECT_EQ(read_and_verify(folder / "step-00000003").tensors.at("weight").at("w").size(), 1u);
}

TEST(Checkpoint, ALeftoverOfAKilledSaveIsReplaced) {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder / ".step-00000004.tmp");
  write_file_atomically(folder / ".step-00000004.tmp" / "half.safetensors", "half");
  write(folder.path(), 4);
  EXPECT_THAT(entries(folder.path()), testing::ElementsAre("step-00000004"));
  EXPECT_THAT(entries(folder / "step-00000004"), testing::ElementsAre("manifest.json", "shard-00000-of-00001.safetensors"));
}

TEST(Checkpoint, AFailureNamesTheRankAndLeavesNothing) {
  const TemporaryFolder folder;
  write_file_atomically(folder / "file", "in the way");
  EXPECT_THAT(message_of<CheckpointError>([&] { write(folder / "file", 1); }),
              testing::AllOf(testing::HasSubstr("cannot write checkpoint"), testing::HasSubstr("rank 0: ")));
  EXPECT_THAT(entries(folder.path()), testing::ElementsAre("file"));
}

TEST(Retention, KeepsTheNewestAndClearsLeftovers) {
  const TemporaryFolder folder;
  for (const int64_t step : {10, 2, 30, 20}) write(folder.path(), step);
  std::filesystem::create_directories(folder / ".step-00000031.tmp");
  std::filesystem::create_directories(folder / "step-00000001");  // a deletion that a kill cut short
  std::filesystem::create_directories(folder / "mine");
  apply_retention(folder.path(), 2);
  EXPECT_THAT(entries(folder.path()), testing::ElementsAre("mine", "step-00000020", "step-00000030"));
  EXPECT_EQ(read_and_verify(folder / "step-00000020").step, 20);
  apply_retention(folder.path(), 5);
  EXPECT_THAT(entries(folder.path()), testing::ElementsAre("mine", "step-00000020", "step-00000030"));
}

}  // namespace
}  // namespace tessera::checkpoint
