#include "checkpoint/safetensors.h"

#include <torch/torch.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "tests/support/support.h"

namespace tessera::checkpoint {
namespace {

using nlohmann::json;
using test::message_of;
using test::TemporaryFolder;

TensorToWrite to_write(const std::string& name, const at::Tensor& value) {
  return {name, value.scalar_type(), value.sizes().vec(), [value] { return value; }};
}

/// A file in memory: the header's length, its text, and `data_bytes` bytes of data.
std::string file_of(const std::string& header, size_t data_bytes) {
  std::string file;
  for (int i = 0; i < 8; ++i) file.push_back(static_cast<char>(header.size() >> (8 * i)));
  return file + header + std::string(data_bytes, 'x');
}

/// Pages of files that this process has in memory.
int64_t file_bytes_in_memory() {
  std::ifstream file("/proc/self/status");
  const std::string status{std::istreambuf_iterator<char>(file), {}};
  return std::stoll(status.substr(status.find("RssFile:") + 8)) * 1024;
}

TEST(Safetensors, ReleasedTensorsTakeNoMemoryAndCanBeReadAgain) {
  const TemporaryFolder folder;
  const at::Tensor value = torch::arange(1 << 22);  // 32 MiB
  write_safetensors(folder / "a.safetensors", {to_write("a", value), to_write("b", value)}, {});
  const SafetensorsFile file(folder / "a.safetensors");
  const int64_t before = file_bytes_in_memory();
  EXPECT_TRUE(file.view("a").equal(value));
  EXPECT_GT(file_bytes_in_memory(), before + (30 << 20));
  file.release("a");
  EXPECT_LT(file_bytes_in_memory(), before + (2 << 20));
  EXPECT_TRUE(file.view("a").equal(value));
}

TEST(Safetensors, EveryDtypeComesBack) {
  const TemporaryFolder folder;
  std::map<std::string, at::Tensor> tensors;
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble, at::kLong, at::kInt, at::kShort, at::kChar, at::kByte, at::kBool})
    tensors[c10::toString(dtype)] = (torch::arange(6) - (dtype == at::kByte ? 0 : 2)).reshape({2, 3}).to(dtype);
  tensors["scalar"] = torch::tensor(3.5f);
  tensors["empty"] = torch::empty({0, 4});
  std::vector<TensorToWrite> list;
  for (const auto& [name, value] : tensors) list.push_back(to_write(name, value));
  const std::string hash = write_safetensors(folder / "a.safetensors", list, {{"format", "pt"}, {"made by", "a test"}});
  EXPECT_EQ(hash, hash_file(folder / "a.safetensors"));

  const SafetensorsFile file(folder / "a.safetensors");
  EXPECT_EQ(file.header().tensors.size(), tensors.size());
  EXPECT_THAT(file.header().metadata, testing::ElementsAre(testing::Pair("format", "pt"), testing::Pair("made by", "a test")));
  EXPECT_EQ(file.header().data_offset % 8, 0u);
  for (const auto& [name, value] : tensors) {
    ASSERT_TRUE(file.contains(name));
    EXPECT_EQ(file.view(name).scalar_type(), value.scalar_type()) << name;
    EXPECT_EQ(file.view(name).sizes(), value.sizes()) << name;
    EXPECT_TRUE(file.view(name).equal(value)) << name;
  }
  EXPECT_FALSE(file.contains("other"));
}

TEST(Safetensors, ConvertsToTheDtypeAskedFor) {
  const TemporaryFolder folder;
  const at::Tensor value = torch::tensor({1.0f, 1.00390625f, -3.14159f});
  write_safetensors(folder / "a.safetensors", {{"w", at::kBFloat16, {3}, [&] { return value; }}});
  const SafetensorsFile file(folder / "a.safetensors");
  EXPECT_TRUE(file.view("w").equal(value.to(at::kBFloat16)));
}

TEST(Safetensors, AFolderOfShardsReadsAsOne) {
  const TemporaryFolder folder;
  std::vector<TensorToWrite> list;
  for (int i = 0; i < 5; ++i) list.push_back(to_write(std::to_string(i) + ".t", torch::full({10}, i)));
  write_safetensors_folder(folder.path(), "model", list, 2 * 10 * 8);  // two tensors of int64 a shard
  EXPECT_TRUE(std::filesystem::exists(folder / "model-00001-of-00003.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(folder / "model.safetensors"));
  const json index = json::parse(read_text_file(folder / "model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], 5 * 10 * 8);
  EXPECT_EQ(index["weight_map"]["4.t"], "model-00003-of-00003.safetensors");

  const SafetensorsFolder all(folder.path(), "model");
  EXPECT_THAT(all.names(), testing::ElementsAre("0.t", "1.t", "2.t", "3.t", "4.t"));
  for (int i = 0; i < 5; ++i) {
    const std::string name = std::to_string(i) + ".t";
    EXPECT_TRUE(all.find(name)->view(name).equal(torch::full({10}, i)));
  }
  EXPECT_EQ(all.find("5.t"), nullptr);
  EXPECT_EQ(all.hash(), SafetensorsFolder(folder.path(), "model").hash());
}

TEST(Safetensors, AFolderWithoutWeightsSaysWhatIsMissing) {
  const TemporaryFolder folder;
  EXPECT_THAT(message_of<ConfigError>([&] { SafetensorsFolder(folder.path(), "model"); }),
              testing::AllOf(testing::HasSubstr("model.safetensors"), testing::HasSubstr("point to a Hugging Face folder")));
}

TEST(Safetensors, ABrokenIndexIsRefused) {
  const TemporaryFolder folder;
  write_safetensors_folder(folder.path(), "model", {to_write("a", torch::ones({4})), to_write("b", torch::ones({4}))}, 16);
  const auto path = folder / "model.safetensors.index.json";
  const json good = json::parse(read_text_file(path));
  const auto with = [&](const json& index) {
    write_file_atomically(path, index.dump());
    return message_of<CheckpointError>([&] { SafetensorsFolder(folder.path(), "model"); });
  };
  EXPECT_THAT(with(json::array()), testing::HasSubstr("not a safetensors index"));
  json index = good;
  index["weight_map"]["a"] = "../outside.safetensors";
  EXPECT_THAT(with(index), testing::HasSubstr("'a' does not name a file of the folder"));
  index = good;
  index["weight_map"]["a"] = "gone.safetensors";
  EXPECT_THAT(with(index), testing::HasSubstr("gone.safetensors, which is missing"));
  index = good;
  index["weight_map"]["a"] = good["weight_map"]["b"];
  EXPECT_THAT(with(index), testing::HasSubstr("'a' is not in"));
  index = good;
  index["weight_map"]["c"] = good["weight_map"]["b"];
  EXPECT_THAT(with(index), testing::HasSubstr("'c' is not in"));
}

struct Lie {
  const char* name;
  std::string file;
  const char* message;
};

class LyingHeader : public testing::TestWithParam<Lie> {};

TEST_P(LyingHeader, IsRefusedByName) {
  EXPECT_THAT(message_of<CheckpointError>([] { (void)SafetensorsHeader::parse(GetParam().file, "bad.safetensors"); }),
              testing::AllOf(testing::HasSubstr("bad.safetensors"), testing::HasSubstr(GetParam().message)));
}

std::string one(const std::string& entry) { return R"({"w":)" + entry + "}"; }

INSTANTIATE_TEST_SUITE_P(
    Kinds, LyingHeader,
    testing::Values(
        Lie{"too_short", "1234567", "7 bytes, too few for a header"},
        Lie{"length_beyond_the_file", std::string("\xff\0\0\0\0\0\0\0{}", 10), "claims a header of 255 bytes"},
        Lie{"length_near_2_to_64", std::string(8, '\xff') + "{}", "claims a header of 18446744073709551615 bytes"},
        Lie{"no_json", file_of("{\"w\":", 0), "header is not a JSON object"},
        Lie{"no_object", file_of("[]", 0), "header is not a JSON object"},
        Lie{"nested_deeply", file_of(one("[[[[[[1]]]]]]"), 0), "nested too deeply"},
        Lie{"name_twice",
            file_of(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1),
            "names 'w' twice"},
        Lie{"no_dtype", file_of(one(R"({"shape":[1],"data_offsets":[0,4]})"), 4), "'w' lacks dtype"},
        Lie{"unknown_dtype", file_of(one(R"({"dtype":"F5","shape":[1],"data_offsets":[0,4]})"), 4), "unknown dtype 'F5'"},
        Lie{"negative_shape", file_of(one(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})"), 4), "malformed shape"},
        Lie{"shape_that_overflows", file_of(one(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})"), 0),
            "impossible shape"},
        Lie{"offsets_beyond_the_file", file_of(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})"), 4), "claims bytes 0..8 of 4"},
        Lie{"offsets_backwards", file_of(one(R"({"dtype":"F32","shape":[0],"data_offsets":[4,0]})"), 4), "claims bytes 4..0"},
        Lie{"size_does_not_fit_the_shape", file_of(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})"), 4),
            "holds 4 bytes where its shape needs 8"},
        Lie{"three_offsets", file_of(one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4,8]})"), 4), "malformed data_offsets"},
        Lie{"overlap",
            file_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})", 6),
            "overlap or leave a gap"},
        Lie{"gap",
            file_of(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}})", 6),
            "overlap or leave a gap"},
        Lie{"bytes_behind_the_data", file_of(one(R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})"), 9),
            "holds 9 bytes of data where its header describes 1"},
        Lie{"metadata_that_is_no_text", file_of(R"({"__metadata__":{"format":1}})", 0), "'format' is not a string"}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace tessera::checkpoint
