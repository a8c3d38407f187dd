#include "checkpoint/manifest.h"

#include <torch/torch.h>

#include "core/error.h"
#include "core/file.h"
#include "tests/support/support.h"

namespace tessera::checkpoint {
namespace {

using test::message_of;
using test::TemporaryFolder;

Manifest small_manifest() {
  Manifest manifest;
  manifest.step = 120;
  manifest.state = {{"updates", 119}, {"mesh", "pp 1 x dp 2"}, {"share", 0.25}};
  manifest.files = {{"shard-00000-of-00002.safetensors", "0a1b"}, {"shard-00001-of-00002.safetensors", "2c3d"}};
  manifest.tensors["weight"]["model.norm.weight"] = {{0, 5, "shard-00000-of-00002.safetensors", "weight/model.norm.weight/0"},
                                                     {5, 3, "shard-00001-of-00002.safetensors", "weight/model.norm.weight/5"}};
  manifest.tensors["exp_avg"]["model.norm.weight"] = {{0, 8, "shard-00000-of-00002.safetensors", "exp_avg/model.norm.weight/0"}};
  return manifest;
}

TEST(Manifest, ComesBackFromItsText) {
  const Manifest manifest = small_manifest();
  const Manifest read = Manifest::parse(manifest.dump(), "manifest.json");
  EXPECT_EQ(read.step, 120);
  EXPECT_EQ(read.state, manifest.state);
  EXPECT_EQ(read.files, manifest.files);
  ASSERT_EQ(read.tensors.at("weight").at("model.norm.weight").size(), 2u);
  const StoredRange& second = read.tensors.at("weight").at("model.norm.weight")[1];
  EXPECT_EQ(second.begin, 5);
  EXPECT_EQ(second.count, 3);
  EXPECT_EQ(second.file, "shard-00001-of-00002.safetensors");
  EXPECT_EQ(second.key, "weight/model.norm.weight/5");
  EXPECT_EQ(read.dump(), manifest.dump());
}

TEST(Manifest, RangesAreOrderedByTheirBegin) {
  Manifest manifest = small_manifest();
  auto& ranges = manifest.tensors["weight"]["model.norm.weight"];
  std::swap(ranges[0], ranges[1]);
  EXPECT_EQ(Manifest::parse(manifest.dump(), "m").tensors.at("weight").at("model.norm.weight")[0].begin, 0);
}

TEST(Manifest, EveryFlippedBitIsDetected) {
  const std::string good = small_manifest().dump();
  int refused = 0;
  for (size_t i = 0; i < good.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
      try {
        (void)Manifest::parse(bad, "manifest.json");
        ADD_FAILURE() << "bit " << bit << " of byte " << i << " ('" << good[i] << "')";
      } catch (const CheckpointError&) {
        ++refused;
      }
    }
  }
  EXPECT_EQ(refused, static_cast<int>(good.size()) * 8);
}

// Some bytes may change without a change of meaning: white space, or the space in front of a 0 into a minus.
TEST(Manifest, EveryOtherByteIsDetectedUnlessItMeansTheSame) {
  const std::string good = small_manifest().dump();
  for (size_t i = 0; i < good.size(); ++i) {
    for (int value = 0; value < 256; value += 3) {
      std::string bad = good;
      bad[i] = static_cast<char>(value);
      try {
        EXPECT_EQ(Manifest::parse(bad, "manifest.json").dump(), good) << i << " " << value;
      } catch (const CheckpointError&) {
      }
    }
  }
}

TEST(Manifest, EveryTruncationIsDetected) {
  const std::string good = small_manifest().dump();
  for (size_t length = 0; length + 1 < good.size(); ++length)  // the last byte is a newline
    EXPECT_THROW((void)Manifest::parse(good.substr(0, length), "manifest.json"), CheckpointError) << length;
}

TEST(Manifest, MessagesTellDamageFromAnotherFile) {
  EXPECT_THAT(message_of<CheckpointError>([] { (void)Manifest::parse("{}", "a/manifest.json"); }),
              testing::HasSubstr("a/manifest.json: not a checkpoint manifest"));
  std::string bad = small_manifest().dump();
  bad.replace(bad.find("119"), 3, "118");
  EXPECT_THAT(message_of<CheckpointError>([&] { (void)Manifest::parse(bad, "m"); }), testing::HasSubstr("its checksum does not fit"));
}

TEST(StepFolders, AreNamedAndListedNewestFirst) {
  EXPECT_EQ(step_folder_name(120), "step-00000120");
  const TemporaryFolder folder;
  for (const char* name : {"step-00000002", "step-00000010", "step-00000003", "other"}) {
    std::filesystem::create_directories(folder / name);
    write_file_atomically(folder / name / "manifest.json", "{}");
  }
  std::filesystem::create_directories(folder / "step-00000099");  // no manifest: does not exist
  const auto found = list_checkpoints(folder.path());
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].filename(), "step-00000010");
  EXPECT_EQ(found[1].filename(), "step-00000003");
  EXPECT_EQ(found[2].filename(), "step-00000002");
  EXPECT_TRUE(list_checkpoints(folder / "nowhere").empty());
}

}  // namespace
}  // namespace tessera::checkpoint
