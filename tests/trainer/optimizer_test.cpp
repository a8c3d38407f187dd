// AdamW over sharded buckets. The ranks of a data-parallel group are stood in for by one object each: neither the layout
// nor the update communicates.
#include "trainer/optimizer.h"

#include <map>

#include "core/error.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

namespace tessera::trainer {
namespace {

using test::TemporaryFolder;
using test::tiny_model;

const OptimizerConfig kConfig = {.lr = 0.01, .betas = {0.8, 0.9}, .eps = 1e-6, .weight_decay = 0.3};
constexpr int64_t kSmallBuckets = 4096;  // bytes, so that there are several

/// One rank: a model of its own, its buckets and its share of the optimizer.
struct Rank {
  std::unique_ptr<parallel::Communicator> place;
  std::unique_ptr<model::CausalLM> model = tiny_model();
  std::unique_ptr<parallel::FlatBuckets> buckets;
  std::unique_ptr<AdamW> optimizer;

  Rank(int rank, int size, int64_t bucket_bytes = kSmallBuckets, const OptimizerConfig& config = kConfig, at::ScalarType values = at::kFloat) : place(parallel::make_dry_run_communicator(rank, size)) {
    std::vector<parallel::FlatBuckets::Item> items;
    for (const auto& used : model->parameters()) items.push_back({used.parameter, used.uses});
    buckets = std::make_unique<parallel::FlatBuckets>(items, *place, parallel::BucketOptions{.bucket_bytes = bucket_bytes, .zero_stage = 1, .values = values, .name = "test"});
    optimizer = std::make_unique<AdamW>(std::vector{buckets.get()}, model->weights(), config, 7);
  }
  /// The same gradients on every rank, as after a reduction.
  void set_gradients(int64_t seed) {
    auto generator = at::detail::createCPUGenerator(static_cast<uint64_t>(seed));
    for (const auto& used : model->parameters()) used.parameter->gradient.copy_(at::randn(used.parameter->gradient.sizes(), generator, at::kFloat));
  }
};

std::vector<std::unique_ptr<Rank>> make_ranks(int size, int64_t bucket_bytes = kSmallBuckets, const OptimizerConfig& config = kConfig,
                                              at::ScalarType values = at::kFloat) {
  std::vector<std::unique_ptr<Rank>> ranks;
  for (int r = 0; r < size; ++r) ranks.push_back(std::make_unique<Rank>(r, size, bucket_bytes, config, values));
  return ranks;
}

using Tensors = std::map<std::string, at::Tensor>;

/// All that the ranks own, put together by "kind/name"; checks that every element is owned exactly once.
Tensors gathered(const std::vector<std::unique_ptr<Rank>>& ranks) {
  Tensors values, owners;
  for (const auto& weight : ranks[0]->model->weights()) {
    for (const char* kind : {"weight", "exp_avg", "exp_avg_sq"}) {
      values[std::string(kind) + "/" + weight.name] = torch::full({weight.numel()}, NAN);
      owners[std::string(kind) + "/" + weight.name] = torch::zeros({weight.numel()}, torch::kInt);
    }
  }
  for (const auto& rank : ranks) {
    for (const auto& range : rank->optimizer->owned_ranges(rank->model->weights())) {
      const std::string key = range.kind + "/" + range.name;
      values.at(key).narrow(0, range.begin, range.data.numel()).copy_(range.data);
      owners.at(key).narrow(0, range.begin, range.data.numel()).add_(1);
    }
  }
  for (const auto& [key, count] : owners) EXPECT_TRUE(count.eq(1).all().item<bool>()) << key;
  return values;
}

void train(const std::vector<std::unique_ptr<Rank>>& ranks, int steps) {
  at::NoGradGuard no_grad;
  for (int step = 1; step <= steps; ++step) {
    for (const auto& rank : ranks) {
      rank->set_gradients(step);
      rank->optimizer->step(0.01 / step, step, 0.5);
    }
  }
}

class Sharded : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, Sharded, testing::Values(1, 2, 3, 4, 7));

TEST_P(Sharded, EveryElementIsOwnedOnce) {
  for (const int64_t bytes : {int64_t{64}, kSmallBuckets, int64_t{1} << 25}) {
    const auto ranks = make_ranks(GetParam(), bytes);
    const Tensors all = gathered(ranks);
    for (const auto& weight : ranks[0]->model->weights())
      EXPECT_TRUE(all.at("weight/" + weight.name).equal(weight.view().reshape({-1}))) << weight.name;
    for (const auto& bucket : ranks[0]->buckets->buckets())
      EXPECT_EQ(bucket.value.numel() % (16 * GetParam()), 0);
  }
}

TEST_P(Sharded, BucketsKeepTheValuesAndTheForwardPass) {
  at::NoGradGuard no_grad;
  const auto ranks = make_ranks(GetParam());
  const auto plain = tiny_model();
  const auto left = plain->weights(), right = ranks.back()->model->weights();
  for (size_t i = 0; i < left.size(); ++i) EXPECT_TRUE(left[i].view().equal(right[i].view())) << left[i].name;
  EXPECT_GT(ranks[0]->buckets->buckets().size(), 1u);
  EXPECT_EQ(std::accumulate(ranks.begin(), ranks.end(), int64_t{0}, [](int64_t sum, const auto& rank) { return sum + rank->buckets->num_owned(); }),
            std::accumulate(left.begin(), left.end(), int64_t{0}, [](int64_t sum, const auto& w) { return sum + w.numel(); }));
}

TEST_P(Sharded, TheNormIsThatOfAllGradients) {
  const auto ranks = make_ranks(GetParam());
  double sum = 0, expected = 0;
  for (const auto& rank : ranks) {
    rank->set_gradients(3);
    sum += rank->optimizer->local_sum_of_squares();
  }
  for (const auto& used : ranks[0]->model->parameters()) expected += used.parameter->gradient.to(torch::kDouble).pow(2).sum().item<double>();
  EXPECT_NEAR(sum, expected, 1e-7 * expected);
}

TEST_P(Sharded, UpdatesEqualTheAlgorithmInDouble) {
  const auto ranks = make_ranks(GetParam());
  const auto plain = tiny_model();
  std::map<kernels::Parameter*, std::array<at::Tensor, 3>> state;
  for (const auto& used : plain->parameters()) {
    const at::Tensor w = used.parameter->value.to(torch::kDouble);
    state[used.parameter.get()] = {w, torch::zeros_like(w), torch::zeros_like(w)};
  }
  constexpr int kSteps = 4;
  train(ranks, kSteps);
  for (int step = 1; step <= kSteps; ++step) {
    auto generator = at::detail::createCPUGenerator(static_cast<uint64_t>(step));
    const double lr = 0.01 / step;
    for (const auto& used : plain->parameters()) {
      auto& [w, m, v] = state[used.parameter.get()];
      const at::Tensor g = at::randn(w.sizes(), generator, at::kFloat).to(torch::kDouble) * 0.5;
      if (w.dim() >= 2) w.mul_(1 - lr * 0.3);
      m.mul_(0.8).add_(g, 0.2);
      v.mul_(0.9).addcmul_(g, g, 0.1);
      const double c1 = 1 - std::pow(0.8, step), c2 = 1 - std::pow(0.9, step);
      w.sub_(lr * (m / c1) / ((v / c2).sqrt() + 1e-6));
    }
  }
  const Tensors all = gathered(ranks);
  for (const auto& weight : plain->weights()) {
    const auto& [w, m, v] = state.at(weight.parameter.get());
    const auto part = [&](const at::Tensor& t) { return t.narrow(0, weight.row_begin, weight.shape[0]).reshape({-1}); };
    EXPECT_LT((all.at("weight/" + weight.name) - part(w)).abs().max().item<double>(), 1e-6) << weight.name;
    EXPECT_LT((all.at("exp_avg/" + weight.name) - part(m)).abs().max().item<double>(), 1e-6) << weight.name;
    EXPECT_LT((all.at("exp_avg_sq/" + weight.name) - part(v)).abs().max().item<double>(), 1e-6) << weight.name;
  }
}

TEST_P(Sharded, NarrowMomentsAndValuesDoNotDependOnTheLayout) {
  OptimizerConfig config = kConfig;
  config.moments = "bfloat16";
  config.moment_rounding = "stochastic";
  const auto many = make_ranks(GetParam(), kSmallBuckets, config, at::kBFloat16), one = make_ranks(1, 1 << 20, config, at::kBFloat16);
  train(many, 3);
  train(one, 3);
  const Tensors left = gathered(many), right = gathered(one);
  for (const auto& [key, value] : left) EXPECT_TRUE(value.equal(right.at(key))) << key;
  config.moment_rounding = "nearest";
  const auto nearest = make_ranks(1, 1 << 20, config, at::kBFloat16);
  train(nearest, 3);
  const Tensors other = gathered(nearest);
  EXPECT_FALSE(other.at(left.begin()->first).equal(left.begin()->second));
  for (const auto& weight : one[0]->model->weights())
    EXPECT_TRUE(weight.view().reshape({-1}).equal(right.at("weight/" + weight.name).to(at::kBFloat16).to(at::kFloat))) << weight.name;
}

class Stored : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, Stored, testing::Values(1, 3));

TEST_P(Stored, NarrowMomentsAndMastersToTheBit) {
  OptimizerConfig config = kConfig;
  config.moments = "bfloat16";
  const auto writers = make_ranks(GetParam(), kSmallBuckets, config, at::kBFloat16);
  train(writers, 2);
  const Tensors written = gathered(writers);
  const TemporaryFolder folder;
  std::vector<checkpoint::OwnedRange> ranges;
  for (const auto& rank : writers)
    for (const auto& range : rank->optimizer->owned_ranges(rank->model->weights())) {
      EXPECT_EQ(range.data.scalar_type(), range.kind == "weight" ? at::kFloat : at::kBFloat16);
      ranges.push_back(range);
    }
  checkpoint::write_checkpoint(folder.path(), 2, ranges, {}, *parallel::make_self_communicator());
  const auto readers = make_ranks(2, 2 * kSmallBuckets, config, at::kBFloat16);
  for (const auto& rank : readers) {
    checkpoint::CheckpointReader reader(folder / "step-00000002", checkpoint::read_and_verify(folder / "step-00000002"));
    rank->optimizer->load(rank->model->weights(), reader);
  }
  const Tensors read = gathered(readers);
  for (const auto& [key, value] : written) EXPECT_TRUE(read.at(key).equal(value)) << key;
}

TEST_P(Sharded, ACheckpointOfAnyNumberOfRanksIsReadToTheBit) {
  const auto writers = make_ranks(GetParam());
  train(writers, 2);
  const Tensors written = gathered(writers);
  const TemporaryFolder folder;
  std::vector<checkpoint::OwnedRange> ranges;
  for (const auto& rank : writers)
    for (const auto& range : rank->optimizer->owned_ranges(rank->model->weights())) ranges.push_back(range);
  checkpoint::write_checkpoint(folder.path(), 2, ranges, {}, *parallel::make_self_communicator());
  for (const int size : {1, 2, 3, 5}) {
    const auto readers = make_ranks(size, 2 * kSmallBuckets);
    for (const auto& rank : readers) {
      checkpoint::CheckpointReader reader(folder / "step-00000002", checkpoint::read_and_verify(folder / "step-00000002"));
      rank->optimizer->load(rank->model->weights(), reader);
      if (size > 1) continue;  // values come from the masters of all ranks, and these ranks exchange nothing
      for (const auto& weight : rank->model->weights())
        EXPECT_TRUE(weight.view().reshape({-1}).equal(written.at("weight/" + weight.name))) << weight.name;
    }
    const Tensors read = gathered(readers);
    for (const auto& [key, value] : written) EXPECT_TRUE(read.at(key).equal(value)) << key << " on " << size;
  }
}

}  // namespace
}  // namespace tessera::trainer
