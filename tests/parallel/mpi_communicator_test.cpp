#include <gtest/gtest.h>
#include <torch/torch.h>

#include "core/error.h"
#include "mpi_main.h"
#include "parallel/mesh.h"

namespace tessera::parallel {
namespace {

// Sizes around the piece limit of mpi_main.cpp (7 elements) and the block of the shared-memory path (256 bytes).
const std::vector<int64_t> kSizes = {0, 1, 6, 7, 8, 15, 64, 65, 1000, 4099};

int rank() { return test_world().rank(); }
int ranks() { return test_world().size(); }

at::Tensor ramp(int64_t size, int64_t shift, at::ScalarType type) {
  return ((torch::arange(size, torch::kLong) * 3 + shift * 5) % 23).to(type);
}

class Collectives : public testing::TestWithParam<at::ScalarType> {};

TEST_P(Collectives, AllReduceSums) {
  for (const int64_t size : kSizes) {
    at::Tensor tensor = ramp(size, rank(), GetParam());
    at::Tensor expected = torch::zeros({size}, torch::kLong);
    for (int r = 0; r < ranks(); ++r) expected += ramp(size, r, torch::kLong);
    test_world().all_reduce(tensor)->wait();
    EXPECT_TRUE(tensor.equal(expected.to(GetParam()))) << size;
  }
}

TEST_P(Collectives, AllReduceMaxAndMin) {
  for (const int64_t size : kSizes) {
    at::Tensor high = ramp(size, rank(), GetParam()), low = high.clone();
    at::Tensor most = high.clone(), least = high.clone();
    for (int r = 0; r < ranks(); ++r) {
      most = torch::maximum(most, ramp(size, r, GetParam()));
      least = torch::minimum(least, ramp(size, r, GetParam()));
    }
    test_world().all_reduce(high, ReduceOp::kMax)->wait();
    test_world().all_reduce(low, ReduceOp::kMin)->wait();
    EXPECT_TRUE(high.equal(most)) << size;
    EXPECT_TRUE(low.equal(least)) << size;
  }
}

TEST_P(Collectives, AllGatherInRankOrder) {
  for (const int64_t size : kSizes) {
    for (const bool in_place : {false, true}) {
      at::Tensor all = torch::zeros({ranks() * size}, GetParam());
      at::Tensor own = all.narrow(0, rank() * size, size);
      if (!in_place) own = own.clone();
      own.copy_(ramp(size, rank(), GetParam()));
      test_world().all_gather(all, own)->wait();
      for (int r = 0; r < ranks(); ++r) {
        EXPECT_TRUE(all.narrow(0, r * size, size).equal(ramp(size, r, GetParam()))) << size << " of " << r;
      }
    }
  }
}

TEST_P(Collectives, ReduceScatterGivesTheOwnSlice) {
  for (const int64_t size : kSizes) {
    for (const bool in_place : {false, true}) {
      at::Tensor input = ramp(ranks() * size, rank(), GetParam());
      at::Tensor expected = torch::zeros({ranks() * size}, torch::kLong);
      for (int r = 0; r < ranks(); ++r) expected += ramp(ranks() * size, r, torch::kLong);
      at::Tensor output = input.narrow(0, rank() * size, size);
      if (!in_place) output = torch::empty({size}, GetParam());
      test_world().reduce_scatter(output, input)->wait();
      EXPECT_TRUE(output.equal(expected.narrow(0, rank() * size, size).to(GetParam()))) << size;
    }
  }
}

TEST_P(Collectives, BroadcastFromEachRoot) {
  for (const int64_t size : kSizes) {
    for (int root = 0; root < ranks(); ++root) {
      at::Tensor tensor = ramp(size, rank(), GetParam());
      test_world().broadcast(tensor, root)->wait();
      EXPECT_TRUE(tensor.equal(ramp(size, root, GetParam())));
    }
  }
}

// Rank a sends (a + 2 b) mod 4 rows to rank b: zeros among them, and different on every pair.
TEST_P(Collectives, AllToAllWithUnevenAndEmptySplits) {
  const auto rows = [](int from, int to) -> int64_t { return (from + 2 * to) % 4; };
  const auto payload = [&](int from, int to) {
    return ramp(rows(from, to) * 5, from * 7 + to, GetParam()).view({rows(from, to), 5});
  };
  std::vector<int64_t> in_splits, out_splits;
  std::vector<at::Tensor> in_parts, out_parts;
  for (int r = 0; r < ranks(); ++r) {
    in_splits.push_back(rows(rank(), r));
    in_parts.push_back(payload(rank(), r));
    out_splits.push_back(rows(r, rank()));
    out_parts.push_back(payload(r, rank()));
  }
  const at::Tensor input = torch::cat(in_parts), expected = torch::cat(out_parts);
  at::Tensor output = torch::zeros_like(expected);
  test_world().all_to_all(output, input, out_splits, in_splits)->wait();
  EXPECT_TRUE(output.equal(expected));
}

INSTANTIATE_TEST_SUITE_P(Types, Collectives, testing::Values(at::kFloat, at::kBFloat16, at::kLong),
                         [](const auto& info) { return std::string(c10::toString(info.param)); });

TEST(MpiCommunicator, Bfloat16SumsInFloat32AndRoundsToNearestEven) {
  // 256 + 1 is a tie in bfloat16 (spacing 2) and goes to the even 256; 256 + 3 goes to 260.
  at::Tensor tensor = torch::full({40}, rank() == 0 ? 256.0 : 0.0, torch::kBFloat16);
  if (rank() == 1) tensor.fill_(1.0), tensor[1] = 3.0;
  test_world().all_reduce(tensor)->wait();
  EXPECT_EQ(tensor[0].item<float>(), 256.0f);
  EXPECT_EQ(tensor[1].item<float>(), 260.0f);
  at::Tensor infinite = torch::full({1}, rank() == 0 ? INFINITY : -1.0f, torch::kBFloat16);
  test_world().all_reduce(infinite)->wait();
  EXPECT_EQ(infinite.item<float>(), INFINITY);
  at::Tensor nan = torch::full({1}, rank() == 0 ? NAN : 1.0f, torch::kBFloat16);
  test_world().all_reduce(nan, ReduceOp::kMax)->wait();
  EXPECT_TRUE(std::isnan(nan.item<float>()));
}

TEST(MpiCommunicator, EveryRankHasTheSameBitsAfterAnAllReduce) {
  torch::manual_seed(rank());
  at::Tensor tensor = torch::randn({5000});
  test_world().all_reduce(tensor)->wait();
  at::Tensor first = tensor.clone();
  test_world().broadcast(first, 0)->wait();
  EXPECT_TRUE(first.equal(tensor));
}

TEST(MpiCommunicator, NeighboursExchangeBothWaysAtOnce) {
  const int next = (rank() + 1) % ranks(), previous = (rank() + ranks() - 1) % ranks();
  at::Tensor right = ramp(100, rank(), at::kFloat), left = ramp(50, rank() + 50, at::kFloat);
  at::Tensor from_left = torch::zeros({100}), from_right = torch::zeros({50});
  test_world().exchange({{right, next, 1}, {left, previous, 2}}, {{from_right, next, 2}, {from_left, previous, 1}})->wait();
  EXPECT_TRUE(from_left.equal(ramp(100, previous, at::kFloat)));
  EXPECT_TRUE(from_right.equal(ramp(50, next + 50, at::kFloat)));
}

TEST(MpiCommunicator, ExchangeOfTwoRanksDoesNotConcernTheOthers) {
  if (rank() > 1) return;
  at::Tensor out = ramp(9, rank(), at::kLong), in = torch::zeros({9}, torch::kLong);
  test_world().exchange({{out, 1 - rank(), 0}}, {{in, 1 - rank(), 0}})->wait();
  EXPECT_TRUE(in.equal(ramp(9, 1 - rank(), at::kLong)));
}

TEST(MpiCommunicator, ManyOperationsInFlightCompleteInOrder) {
  std::vector<at::Tensor> tensors;
  std::vector<WorkPtr> works;
  for (int64_t i = 0; i < 50; ++i) {
    tensors.push_back(torch::full({1 + i * 13 % 40}, static_cast<float>(i + rank())));
    works.push_back(test_world().all_reduce(tensors.back()));
  }
  works.back()->wait();
  for (int64_t i = 0; i < 50; ++i) {
    EXPECT_TRUE(works[static_cast<size_t>(i)]->done());
    works[static_cast<size_t>(i)]->wait();
    works[static_cast<size_t>(i)]->wait();  // idempotent
    const float expected = static_cast<float>(i * ranks() + ranks() * (ranks() - 1) / 2);
    EXPECT_EQ(tensors[static_cast<size_t>(i)].max().item<float>(), expected);
  }
}

// Ranks issue on two communicators in different orders: legal, since order is kept per communicator only.
TEST(MpiCommunicator, TwoCommunicatorsMayInterleaveDifferently) {
  const std::vector<int> together(static_cast<size_t>(ranks()), 0);
  const auto a = test_world().split(together, "a");
  const auto b = test_world().split(together, "b");
  EXPECT_EQ(a->axis(), "a");
  EXPECT_EQ(a->rank(), rank());
  for (int i = 0; i < 20; ++i) {
    at::Tensor x = torch::full({33}, 1.0f), y = torch::full({21}, 2.0f);
    WorkPtr first, second;
    if (rank() % 2 == 0) {
      first = a->all_reduce(x);
      second = b->all_reduce(y);
    } else {
      second = b->all_reduce(y);
      first = a->all_reduce(x);
    }
    second->wait();
    first->wait();
    EXPECT_EQ(x.sum().item<float>(), 33.0f * static_cast<float>(ranks()));
    EXPECT_EQ(y.sum().item<float>(), 42.0f * static_cast<float>(ranks()));
  }
}

TEST(MpiCommunicator, SplitSeparatesColors) {
  std::vector<int> colors;
  for (int r = 0; r < ranks(); ++r) colors.push_back(r % 2);
  const auto half = test_world().split(colors, "half");
  EXPECT_EQ(half->size(), (ranks() + (rank() % 2 == 0 ? 1 : 0)) / 2);
  at::Tensor tensor = torch::ones({10});
  half->all_reduce(tensor)->wait();
  EXPECT_EQ(tensor[0].item<float>(), static_cast<float>(half->size()));
}

TEST(MpiCommunicator, RefusesTensorsThatAreNotContiguous) {
  at::Tensor tensor = torch::zeros({4, 4}).t();
  EXPECT_THROW((void)test_world().all_reduce(tensor), InternalError);
}

TEST(Mesh, AxesGroupTheRightRanks) {
  for (int64_t pp = 1; pp <= ranks(); ++pp) {
    for (int64_t ep = 1; ep <= ranks(); ++ep) {
      if (ranks() % pp != 0 || ranks() / pp % ep != 0) continue;
      const Mesh mesh(test_world(), {.pp = pp, .ep = ep});
      for (const std::string& axis : MeshLayout::axes()) {
        const auto group = mesh.layout().group(axis, rank());
        ASSERT_EQ(mesh.axis(axis).size(), static_cast<int>(group.size()));
        ASSERT_EQ(mesh.axis(axis).rank(), mesh.coordinate(axis));
        at::Tensor members = torch::zeros({static_cast<int64_t>(group.size())}, torch::kLong);
        mesh.axis(axis).all_gather(members, torch::full({1}, rank(), torch::kLong))->wait();
        EXPECT_TRUE(members.equal(torch::tensor(group)));
      }
    }
  }
}

TEST(MpiContext, IdlesBelowOnePercentOfACore) {
  test_world().barrier();
  const double before = test_context().progress_cpu_seconds();
  std::this_thread::sleep_for(std::chrono::seconds(1));
  EXPECT_LT(test_context().progress_cpu_seconds() - before, 0.01);
  test_world().barrier();
}

}  // namespace
}  // namespace tessera::parallel
