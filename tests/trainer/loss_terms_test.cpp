#include "trainer/loss_terms.h"

#include "core/error.h"
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

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

Outcome run_step(size_t rows_a_micro_batch) {
  const auto self = parallel::make_self_communicator();
  const auto model = test::tiny_model(test::tiny_deepseek_config());
  Outcome outcome;
  for (const auto& used : model->parameters(true)) {
    used.parameter->value.requires_grad_(true);
    used.parameter->gradient = at::zeros_like(used.parameter->value);
    outcome.gradients.push_back(used.parameter->gradient);
  }
  const data::StepBatch batch = step_of(rows_a_micro_batch);
  const StepCounts counts = count_step(batch, 1, *self);
  EXPECT_EQ(counts.tokens, 31);
  EXPECT_EQ(counts.documents, 4);
  const LossTerms terms = loss_terms(counts, {.bias_update_rate = 0, .sequence_balance_loss = 0.2, .z_loss = 0.01}, {.loss_weight = 0.3}, true);
  for (const auto& micro : batch.micro_batches) run_micro_batch(*model, micro, terms, outcome.loss);
  for (moe::Router* router : model->routers(true)) {
    outcome.balance += router->statistics().balance_loss;
    outcome.z += router->statistics().z_loss;
    outcome.counts.insert(outcome.counts.end(), router->statistics().counts.begin(), router->statistics().counts.end());
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
  const auto self = parallel::make_self_communicator();
  const auto model = test::tiny_model(test::tiny_deepseek_config());
  for (const auto& used : model->parameters()) {
    used.parameter->value.requires_grad_(true);
    used.parameter->gradient = at::zeros_like(used.parameter->value);
  }
  data::Row row = document(1, 6);
  std::fill(row.loss_mask.begin(), row.loss_mask.end(), uint8_t{0});
  data::StepBatch batch;
  batch.micro_batches = {data::make_micro_batch({row}), data::MicroBatch{}};
  batch.num_tokens = 6;
  const LossTerms terms = loss_terms(count_step(batch, 0, *self), {.sequence_balance_loss = 1.0}, {}, true);
  StepLoss loss;
  for (const auto& micro : batch.micro_batches) run_micro_batch(*model, micro, terms, loss);
  EXPECT_EQ(loss.cross_entropy, 0);
  EXPECT_GT(model->routers()[0]->weight()->gradient.abs().max().item<double>(), 0);
}

}  // namespace
}  // namespace tessera::trainer
