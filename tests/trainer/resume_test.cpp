#include "trainer/resume.h"

#include <torch/torch.h>

#include "checkpoint/writer.h"
#include "core/error.h"
#include "core/file.h"
#include "tests/support/support.h"

namespace tessera::trainer {
namespace {

using nlohmann::json;
using test::message_of;
using test::TemporaryFolder;
using testing::HasSubstr;

const std::map<std::string, std::string> kRecipe = {
    {"name", "a"}, {"output", "runs/a"}, {"seed", "7"}, {"optimizer.lr", "0.1"}, {"train.steps", "10"}, {"train.sequences_per_step", "4"},
    {"train.sequences_per_microbatch", "2"}, {"data.train[0].path", "t"}, {"data.validation[0].path", "v"}, {"log.every", "1"},
    {"checkpoint.keep", "2"}, {"parallel.pp", "1"}, {"communication.timeout_seconds", "600"}, {"evaluate.every", "0"}};

json state() { return {{"recipe", kRecipe}, {"data_hash", "d"}, {"base_hash", "b"}}; }

std::string refusal(const std::map<std::string, std::string>& recipe, const std::string& data = "d", const std::string& base = "b") {
  return message_of<ConfigError>([&] { check_resumable(state(), recipe, data, base, "step-00000005"); });
}

TEST(CheckResumable, HarmlessKeysMayChange) {
  EXPECT_NO_THROW(check_resumable(state(), kRecipe, "d", "b", "c"));
  for (const char* key : {"name", "output", "train.steps", "train.sequences_per_microbatch", "data.validation[0].path", "log.every",
                          "checkpoint.keep", "parallel.pp", "communication.timeout_seconds", "evaluate.every"}) {
    auto changed = kRecipe;
    changed.at(key) = "other";
    EXPECT_NO_THROW(check_resumable(state(), changed, "d", "b", "c")) << key;
    changed.erase(key);
    EXPECT_NO_THROW(check_resumable(state(), changed, "d", "b", "c")) << key;
  }
  auto more = kRecipe;
  more["data.validation[1].path"] = "w";
  more["log.tensorboard"] = "false";
  EXPECT_NO_THROW(check_resumable(state(), more, "d", "b", "c"));
}

TEST(CheckResumable, OtherKeysAreRefusedByName) {
  for (const char* key : {"seed", "optimizer.lr", "train.sequences_per_step", "data.train[0].path"}) {
    auto changed = kRecipe;
    const std::string was = changed.at(key);
    changed.at(key) = "other";
    EXPECT_THAT(refusal(changed), testing::AllOf(HasSubstr("cannot resume from step-00000005: " + std::string(key) + " was " + was + " and is other"),
                                                 HasSubstr("--resume never")));
    changed.erase(key);
    EXPECT_THAT(refusal(changed), HasSubstr(" and is (absent)"));
  }
  auto more = kRecipe;
  more["model.lora.r"] = "8";
  EXPECT_THAT(refusal(more), HasSubstr("model.lora.r was (absent) and is 8"));
  more = kRecipe;
  more["names"] = "x";  // begins like a harmless key
  EXPECT_THAT(refusal(more), HasSubstr("names was (absent)"));
}

TEST(CheckResumable, ChangedDataAndBaseAreRefused) {
  EXPECT_THAT(refusal(kRecipe, "e"), HasSubstr("the training data (data.train) has changed"));
  EXPECT_THAT(refusal(kRecipe, "d", "c"), HasSubstr("the base model (model.path) has changed"));
}

class ResumePoints : public testing::Test {
 protected:
  void write(int64_t step) { checkpoint::write_checkpoint(folder_.path(), step, {{"weight", "w", 0, torch::zeros({4})}}, {{"updates", step}}, *world_); }
  std::optional<ResumePoint> find(const std::string& resume) { return find_resume_point(folder_.path(), resume, *world_); }
  void damage(const std::string& file) {
    std::string text = read_text_file(folder_ / file);
    text[text.size() / 2] = static_cast<char>(text[text.size() / 2] ^ 4);
    write_file_atomically(folder_ / file, text);
  }
  TemporaryFolder folder_;
  std::unique_ptr<parallel::Communicator> world_ = parallel::make_self_communicator();
};

TEST_F(ResumePoints, AutoTakesTheNewestWholeOne) {
  EXPECT_FALSE(find("auto").has_value());
  for (const int64_t step : {10, 20, 30}) write(step);
  EXPECT_EQ(find("auto")->manifest.step, 30);
  damage("step-00000030/shard-00000-of-00001.safetensors");
  EXPECT_EQ(find("auto")->manifest.step, 20);
  damage("step-00000020/manifest.json");
  EXPECT_EQ(find("auto")->manifest.step, 10);
  EXPECT_EQ(find("auto")->folder, folder_ / "step-00000010");
  EXPECT_EQ(find("auto")->manifest.state["updates"], 10);
  std::filesystem::remove(folder_ / "step-00000010" / "manifest.json");
  EXPECT_FALSE(find("auto").has_value());
}

TEST_F(ResumePoints, NeverTakesNone) {
  write(10);
  EXPECT_FALSE(find("never").has_value());
}

TEST_F(ResumePoints, ANamedOneMustBeWhole) {
  write(10);
  write(20);
  EXPECT_EQ(find((folder_ / "step-00000010").string())->manifest.step, 10);
  damage("step-00000020/manifest.json");
  EXPECT_THAT(message_of<CheckpointError>([&] { (void)find((folder_ / "step-00000020").string()); }), HasSubstr("--resume: "));
  EXPECT_THAT(message_of<CheckpointError>([&] { (void)find((folder_ / "nowhere").string()); }), HasSubstr("is no checkpoint"));
}

}  // namespace
}  // namespace tessera::trainer
