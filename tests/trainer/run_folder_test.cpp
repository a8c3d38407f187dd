#include "trainer/run_folder.h"

#include <torch/torch.h>

#include <cstring>

#include "core/error.h"
#include "core/file.h"
#include "tests/support/support.h"

namespace tessera::trainer {
namespace {

using nlohmann::json;
using test::message_of;
using test::TemporaryFolder;

TEST(Crc32c, MatchesTheKnownAnswers) {
  EXPECT_EQ(crc32c("123456789", 9), 0xE3069283u);
  EXPECT_EQ(crc32c("", 0), 0u);
  EXPECT_EQ(crc32c(std::string(32, '\0').data(), 32), 0x8A9136AAu);  // RFC 3720, appendix B.4
  EXPECT_EQ(crc32c(std::string(32, '\xff').data(), 32), 0x62A8AB43u);
}

template <typename T>
T raw(const std::string& text, size_t at) {
  T value;
  std::memcpy(&value, text.data() + at, sizeof value);
  return value;
}

/// The records of an event file, their lengths and checksums checked.
std::vector<std::string> records(const std::filesystem::path& path) {
  const std::string file = read_text_file(path);
  const auto masked = [](uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8u; };
  std::vector<std::string> list;
  size_t at = 0;
  while (at < file.size()) {
    const auto length = raw<uint64_t>(file, at);
    EXPECT_EQ(raw<uint32_t>(file, at + 8), masked(crc32c(file.data() + at, 8)));
    if (at + 16 + length > file.size()) {
      ADD_FAILURE() << "a record of " << length << " bytes at " << at << " of " << file.size();
      break;
    }
    list.push_back(file.substr(at + 12, length));
    EXPECT_EQ(raw<uint32_t>(file, at + 12 + length), masked(crc32c(list.back().data(), length)));
    at += 16 + length;
  }
  return list;
}

std::filesystem::path only_file(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) files.push_back(entry.path());
  EXPECT_EQ(files.size(), 1u);
  return files.at(0);
}

TEST(Tensorboard, RecordsAreFramedAndHoldTheScalar) {
  const TemporaryFolder folder;
  {
    TensorboardWriter writer(folder / "events");
    writer.scalar("train/loss", 300, 2.5f);
    writer.scalar("train/lr", 1, -1.0f);
  }
  const auto list = records(only_file(folder / "events"));
  ASSERT_EQ(list.size(), 3u);
  EXPECT_THAT(list[0], testing::HasSubstr("brain.Event:2"));
  // Event: wall_time, step 300 as a varint, summary { value { tag, simple_value } }.
  EXPECT_EQ(list[1].substr(9, 3), std::string("\x10\xAC\x02"));
  const std::string value = std::string("\x0A\x0Atrain/loss\x15", 13) + std::string("\x00\x00\x20\x40", 4);
  EXPECT_EQ(list[1].substr(12), std::string("\x2A\x13\x0A\x11", 4) + value);
  EXPECT_GT(raw<double>(list[1], 1), 1.6e9);
}

class RunFolders : public testing::Test {
 protected:
  RunFolders() {
    config_.output = (folder_ / "run").string();
    config_.log.tensorboard = false;
  }
  std::vector<int64_t> logged() {
    std::istringstream lines(read_text_file(folder_ / "run" / "metrics.jsonl"));
    std::vector<int64_t> steps;
    for (std::string line; std::getline(lines, line);) steps.push_back(json::parse(line)["step"]);
    return steps;
  }
  TemporaryFolder folder_;
  TrainerConfig config_;
  std::unique_ptr<parallel::Communicator> world_ = parallel::make_self_communicator();
};

TEST_F(RunFolders, MetricsBehindTheResumedStepAreDropped) {
  {
    RunFolder run(config_, *world_);
    run.begin(0);
    for (int64_t step = 1; step <= 5; ++step) run.write_metrics({{"step", step}, {"loss", 1.0}});
  }
  write_file_atomically(folder_ / "run" / "metrics.jsonl", read_text_file(folder_ / "run" / "metrics.jsonl") + "{\"step\": 6, \"lo");
  RunFolder run(config_, *world_);
  run.begin(3);
  EXPECT_THAT(logged(), testing::ElementsAre(1, 2, 3));
  run.write_metrics({{"step", 4}, {"loss", 2.0}});
  EXPECT_THAT(logged(), testing::ElementsAre(1, 2, 3, 4));
  run.begin(0);
  EXPECT_TRUE(logged().empty());
  EXPECT_FALSE(std::filesystem::exists(folder_ / "run" / "tensorboard"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "run" / ".nonce"));
}

TEST_F(RunFolders, TensorboardHoldsEveryNumber) {
  config_.log.tensorboard = true;
  {
    RunFolder run(config_, *world_);
    run.begin(0);
    run.write_metrics({{"step", 1}, {"loss", 1.0}, {"tokens", 7}, {"skipped", true}});
  }
  EXPECT_EQ(records(only_file(folder_ / "run" / "tensorboard")).size(), 3u);
}

TEST_F(RunFolders, RunJsonIsMerged) {
  RunFolder run(config_, *world_);
  run.update_run_json({{"state", "running"}, {"mesh", "m"}});
  run.update_run_json({{"state", "finished"}, {"step", 5}});
  EXPECT_EQ(json::parse(read_text_file(folder_ / "run" / "run.json")), json({{"state", "finished"}, {"mesh", "m"}, {"step", 5}}));
}

TEST_F(RunFolders, AFolderThatCannotBeMadeIsTheUsersMistake) {
  write_file_atomically(folder_ / "file", "in the way");
  config_.output = (folder_ / "file" / "run").string();
  EXPECT_THAT(message_of<ConfigError>([&] { RunFolder(config_, *world_); }), testing::HasSubstr("output: cannot create"));
}

}  // namespace
}  // namespace tessera::trainer
