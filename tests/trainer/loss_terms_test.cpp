// The sums of a step over micro-batches, carried out as the trainer does.
#include "trainer/loss_terms.h"

#include <map>

#include "core/error.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"
#include "trainer/stages.h"

namespace tessera::trainer {
namespace {

data::Row document(int32_t first, int64_t length) {
  data::Row row;
  for (int64_t i = 0; i < length; ++i) {
    row.tokens.push_back(static_cast<int32_t>((first + 5 * i) % 37));
    row.loss_mask.push_back(i > 0 && (i + first) % 4 != 0 ? 1 : 0);
  }
  row.segments = {{0, length, 0, -1}};
  return row;
}

/// Four documents in micro-batches of `rows` each.
data::StepBatch step_of(size_t rows) {
  const std::vector<data::Row> documents = {document(1, 9), document(8, 5), document(20, 13), document(30, 4)};
  data::StepBatch batch;
  for (size_t begin = 0; begin < documents.size(); begin += rows) {
    const auto first = documents.begin() + static_cast<std::ptrdiff_t>(begin);
    batch.micro_batches.push_back(data::make_micro_batch({first, first + static_cast<std::ptrdiff_t>(rows)}));
    batch.num_tokens += static_cast<int64_t>(batch.micro_batches.back().tokens.size());
    batch.num_targets += static_cast<int64_t>(batch.micro_batches.back().targets.size());
  }
  return batch;
}

struct Outcome {
  StepLoss loss;
  double balance = 0, z = 0;
  std::vector<int64_t> counts;
  std::vector<at::Tensor> gradients;
};

/// The tiny DeepSeek-V3 as the one stage of a mesh of one.
struct OneStage {
  explicit OneStage(bool mtp) : stages(model::ModelConfig::from_json(test::tiny_deepseek_config(), "tiny"), mesh, {}, mtp) {
    stages.make_trainable(false);
    at::NoGradGuard no_grad;
    std::map<std::string, at::Tensor> values;
    const auto filled = test::tiny_model(test::tiny_deepseek_config());
    for (const auto& weight : filled->weights()) values[weight.name] = weight.view();
    for (const auto& weight : stages.weights(false)) weight.view().copy_(values.at(weight.name));
  }
  [[nodiscard]] model::CausalLM& model() const { return *stages.models()[0]; }

  std::unique_ptr<parallel::Communicator> self = parallel::make_self_communicator();
  parallel::Mesh mesh{*self, {}};
  Stages stages;
};

Outcome run_step(size_t rows_a_micro_batch) {
  OneStage one(true);
  Outcome outcome;
  const data::StepBatch batch = step_of(rows_a_micro_batch);
  const StepCounts counts = count_step(batch, 1, *one.self, 1);
  EXPECT_EQ(counts.tokens, 31);
  EXPECT_EQ(counts.documents, 4);
  const LossTerms terms = loss_terms(counts, {.bias_update_rate = 0, .sequence_balance_loss = 0.2, .z_loss = 0.01}, {.loss_weight = 0.3}, true);
  outcome.loss = one.stages.forward_backward(batch, terms);
  for (const auto& used : one.model().parameters(true)) outcome.gradients.push_back(used.parameter->gradient.clone());
  for (const auto& [layer, router] : one.model().routers(true)) {
    const auto& sums = router->sums();
    outcome.balance += sums.balance_loss.item<double>();
    outcome.z += sums.z_loss.item<double>();
    outcome.counts.insert(outcome.counts.end(), sums.counts.const_data_ptr<int64_t>(), sums.counts.const_data_ptr<int64_t>() + sums.counts.numel());
  }
  return outcome;
}

TEST(LossTerms, MicroBatchesDoNotChangeTheSum) {
  const Outcome whole = run_step(4);
  EXPECT_GT(whole.loss.mtp, 0);
  EXPECT_GT(whole.balance, 0.2);  // of each layer about alpha times one
  EXPECT_GT(whole.z, 0);
  for (const size_t rows : {1, 2}) {
    const Outcome parts = run_step(rows);
    EXPECT_NEAR(parts.loss.cross_entropy, whole.loss.cross_entropy, 1e-5);
    EXPECT_NEAR(parts.loss.mtp, whole.loss.mtp, 1e-5);
    EXPECT_NEAR(parts.balance, whole.balance, 1e-6);
    EXPECT_NEAR(parts.z, whole.z, 1e-6);
    EXPECT_EQ(parts.counts, whole.counts);
    for (size_t i = 0; i < whole.gradients.size(); ++i)
      EXPECT_LT((parts.gradients[i] - whole.gradients[i]).abs().max().item<double>(), 1e-5 * (1 + whole.gradients[i].abs().max().item<double>())) << i;
  }
}

TEST(LossTerms, WithoutTargetsRoutersAreStillBalanced) {
  OneStage one(false);
  data::Row row = document(1, 6);
  std::fill(row.loss_mask.begin(), row.loss_mask.end(), uint8_t{0});
  data::StepBatch batch;
  batch.micro_batches = {data::make_micro_batch({row}), data::MicroBatch{}};
  batch.num_tokens = 6;
  const LossTerms terms = loss_terms(count_step(batch, 0, *one.self, 1), {.sequence_balance_loss = 1.0}, {}, true);
  EXPECT_EQ(one.stages.forward_backward(batch, terms).cross_entropy, 0);
  EXPECT_GT(one.model().routers()[0].router->weight()->gradient.abs().max().item<double>(), 0);
}

}  // namespace
}  // namespace tessera::trainer
