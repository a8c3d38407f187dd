#include "parallel/mesh.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "core/error.h"

namespace tessera::parallel {
namespace {

std::string error_of(int64_t world_size, const ParallelConfig& config) {
  try {
    config.validate(world_size);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(ParallelConfig, NamesTheKeyAndWhatToSet) {
  EXPECT_EQ(error_of(8, {}), "");
  EXPECT_EQ(error_of(8, {.pp = 2, .ep = 4}), "");
  EXPECT_EQ(error_of(4, {.ep = 3}), "parallel.ep = 3 must divide dp = 4; use 1, 2, 4");
  EXPECT_EQ(error_of(6, {.pp = 4}), "parallel.pp = 4 must divide the world size = 6; use 1, 2, 3, 6");
  EXPECT_EQ(error_of(8, {.pp = 2, .ep = 8}), "parallel.ep = 8 must divide dp = 4; use 1, 2, 4");
  EXPECT_EQ(error_of(1, {.pp = 0}), "parallel.pp = 0 must divide the world size = 1; use 1");
  EXPECT_EQ(error_of(1, {.ep = -1}), "parallel.ep = -1 must divide dp = 1; use 1");
  EXPECT_THAT(error_of(1, {.pipeline_schedule = "1f1bb"}), testing::HasSubstr("did you mean 1f1b?"));
  EXPECT_THAT(error_of(1, {.pipeline_schedule = "dualpipe"}), "");
  EXPECT_THAT(error_of(1, {.zero = 3}), testing::HasSubstr("parallel.zero = 3"));
  EXPECT_THAT(error_of(4, {.pp = 2, .pipeline_schedule = "dualpipe", .zero = 2}), testing::HasSubstr("use 1, or the schedule dualpipe_v"));
  EXPECT_THAT(error_of(2, {.ranks_per_node = -1}), testing::HasSubstr("parallel.ranks_per_node = -1"));
}

// Every layout of up to 8 ranks: groups partition the world, coordinates and groups agree, orders are as documented.
TEST(MeshLayout, EveryLayoutUpToEightRanks) {
  for (int64_t world = 1; world <= 8; ++world) {
    for (int64_t pp = 1; pp <= world; ++pp) {
      for (int64_t ep = 1; ep <= world; ++ep) {
        if (world % pp != 0 || world / pp % ep != 0) continue;
        const MeshLayout layout(world, {.pp = pp, .ep = ep});
        EXPECT_EQ(layout.size("pp") * layout.size("dp"), world);
        EXPECT_EQ(layout.size("ep") * layout.size("edp"), layout.size("dp"));
        for (const std::string& axis : MeshLayout::axes()) {
          std::set<std::vector<int64_t>> groups;
          for (int64_t rank = 0; rank < world; ++rank) {
            const auto group = layout.group(axis, rank);
            ASSERT_EQ(static_cast<int64_t>(group.size()), layout.size(axis));
            EXPECT_EQ(group[static_cast<size_t>(layout.coordinate(axis, rank))], rank);
            for (const int64_t peer : group) EXPECT_EQ(layout.group(axis, peer), group);
            groups.insert(group);
          }
          EXPECT_EQ(static_cast<int64_t>(groups.size()), world / layout.size(axis));
        }
      }
    }
  }
}

TEST(MeshLayout, DataParallelPeersAreNeighboursAndExpertGroupsAreRuns) {
  const MeshLayout layout(8, {.pp = 2, .ep = 2});
  EXPECT_EQ(layout.group("dp", 5), (std::vector<int64_t>{4, 5, 6, 7}));
  EXPECT_EQ(layout.group("pp", 5), (std::vector<int64_t>{1, 5}));
  EXPECT_EQ(layout.group("ep", 5), (std::vector<int64_t>{4, 5}));
  EXPECT_EQ(layout.group("edp", 5), (std::vector<int64_t>{5, 7}));
  EXPECT_THROW((void)layout.size("tp"), InternalError);
}

TEST(Mesh, OfOneRankNeedsNoCommunication) {
  const auto self = make_self_communicator();
  const Mesh mesh(*self, {});
  EXPECT_EQ(mesh.axis("dp").size(), 1);
  EXPECT_EQ(mesh.axis("ep").axis(), "ep");
  EXPECT_EQ(mesh.describe(), "pp 1 x dp 1 (ep 1 x edp 1)");
  EXPECT_THROW((void)mesh.axis("tp"), InternalError);
}

}  // namespace
}  // namespace tessera::parallel
