#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/random.h"
#include "core/text.h"

namespace tessera {
namespace {

// Known answers published with the Philox paper's reference implementation (Random123, kat_vectors).
TEST(Philox, MatchesTheReferenceVectors) {
  EXPECT_THAT(philox4x32({0, 0, 0, 0}, {0, 0}),
              testing::ElementsAre(0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u));
  EXPECT_THAT(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
              testing::ElementsAre(0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu));
}

TEST(PermuteIndex, IsABijectionThatDependsOnSeedAndEpoch) {
  for (uint64_t n : {1, 2, 3, 7, 64, 1000}) {
    std::set<uint64_t> images;
    for (uint64_t i = 0; i < n; ++i) images.insert(permute_index(7, 3, i, n));
    EXPECT_EQ(images.size(), n);
    EXPECT_EQ(*images.rbegin(), n - 1);
  }
  int same = 0;
  for (uint64_t i = 0; i < 1000; ++i) same += permute_index(7, 0, i, 1000) == permute_index(7, 1, i, 1000);
  EXPECT_LT(same, 20);
}

TEST(RandomNormal, IsIndependentOfChunking) {
  std::vector<float> whole(101), parts(101);
  random_normal(1, 2, 0, 101, whole.data());
  random_normal(1, 2, 0, 33, parts.data());
  random_normal(1, 2, 33, 68, parts.data() + 33);
  EXPECT_EQ(whole, parts);
}

TEST(RandomNormal, HasMeanZeroAndDeviationOne) {
  std::vector<float> x(100000);
  random_normal(3, 1, 0, 100000, x.data());
  double sum = 0, squares = 0;
  for (float v : x) {
    sum += v;
    squares += double{v} * v;
  }
  EXPECT_NEAR(sum / 1e5, 0, 0.02);
  EXPECT_NEAR(squares / 1e5, 1, 0.02);
}

TEST(NearestName, FindsTyposAndLeavesTheRest) {
  EXPECT_EQ(nearest_name("sequence_lenght", {"sequence_length", "packing"}), "sequence_length");
  EXPECT_EQ(nearest_name("xyz", {"sequence_length", "packing"}), "");
}

TEST(Check, NamesTheConditionAndTheMessage) {
  try {
    TESSERA_CHECK(1 == 2, "rank ", 3);
    FAIL();
  } catch (const InternalError& error) {
    EXPECT_THAT(error.what(), testing::AllOf(testing::HasSubstr("1 == 2"), testing::HasSubstr("rank 3")));
  }
}

TEST(Files, AtomicWriteReplacesAndLeavesNoTemporary) {
  const auto folder = std::filesystem::temp_directory_path() / ("tessera_core_test." + std::to_string(::getpid()));
  make_directories(folder);
  write_file_atomically(folder / "a.txt", "one");
  write_file_atomically(folder / "a.txt", "two");
  EXPECT_EQ(read_text_file(folder / "a.txt"), "two");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
  EXPECT_EQ(hash_file(folder / "a.txt"), hash_bytes("two"));
  std::filesystem::remove_all(folder);
}

TEST(Files, AMissingFileIsNamed) {
  try {
    (void)read_text_file("/no/such/file");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("/no/such/file"));
  }
}

}  // namespace
}  // namespace tessera
