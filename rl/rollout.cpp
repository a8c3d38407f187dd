#include "rl/rollout.h"

#include "core/error.h"

namespace tessera::rl {

namespace {

void append(std::vector<float>& to, const std::vector<float>& from) { to.insert(to.end(), from.begin(), from.end()); }

/// A row: the prompt, then the completions behind it.
data::Row open_row(const Rollout& rollout) {
  data::Row row;
  row.tokens = rollout.prompt_tokens;
  row.loss_mask.assign(row.tokens.size(), 0);
  row.segments = {{0, static_cast<int64_t>(row.tokens.size()), 0, -1}};
  if (rollout.prompt_experts) row.experts = *rollout.prompt_experts;
  return row;
}

void add_completion(const Rollout& rollout, data::Row& row, PolicyBatch& policy) {
  const auto start = static_cast<int64_t>(row.tokens.size()), length = static_cast<int64_t>(rollout.tokens.size());
  row.segments.push_back({start, length, static_cast<int64_t>(rollout.prompt_tokens.size()), 0});
  row.tokens.insert(row.tokens.end(), rollout.tokens.begin(), rollout.tokens.end());
  row.loss_mask.resize(row.tokens.size(), 1);
  append_choices(row.experts, rollout.experts);
  policy.lengths.push_back(length);
  policy.advantages.push_back(static_cast<float>(rollout.advantage));
  append(policy.rollout, rollout.log_probs);
}

}  // namespace

RolloutBatch make_rollout_batch(const std::vector<Rollout>& rollouts, const BatchPlan& plan, int64_t step) {
  RolloutBatch result;
  result.batch.step = step;
  size_t next = 0;
  for (int64_t m = 0; m < plan.num_microbatches; ++m) {
    std::vector<data::Row> rows;
    PolicyBatch policy;
    int64_t open_prompt = -1;
    for (int64_t taken = 0; next < rollouts.size() && taken < plan.per_microbatch; ++next) {
      const Rollout& rollout = rollouts[next];
      if (!rollout.trains) continue;
      TESSERA_CHECK(!rollout.tokens.empty() && rollout.log_probs.size() == rollout.tokens.size());
      if (rollout.prompt != open_prompt) rows.push_back(open_row(rollout));
      open_prompt = rollout.prompt;
      add_completion(rollout, rows.back(), policy);
      ++taken;
    }
    result.batch.micro_batches.push_back(data::make_micro_batch(rows));
    result.batch.num_tokens += static_cast<int64_t>(result.batch.micro_batches.back().tokens.size());
    result.batch.num_targets += static_cast<int64_t>(result.batch.micro_batches.back().targets.size());
    result.policies.push_back(std::move(policy));
  }
  for (; next < rollouts.size(); ++next) TESSERA_CHECK(!rollouts[next].trains, "rollouts are left behind ", plan.num_microbatches, " micro-batches");
  return result;
}

std::vector<uint8_t> pack_rollouts(const std::vector<Rollout>& rollouts) {
  nlohmann::json list = nlohmann::json::array();
  for (const Rollout& r : rollouts)
    list.push_back({r.prompt, r.index, r.prompt_tokens, r.tokens, r.log_probs, r.stopped, r.reward, r.advantage, r.usable, r.trains, r.place});
  return nlohmann::json::to_cbor(list);
}

std::vector<Rollout> unpack_rollouts(const std::vector<uint8_t>& bytes) {
  std::vector<Rollout> rollouts;
  for (const auto& r : nlohmann::json::from_cbor(bytes))
    rollouts.push_back({r.at(0), r.at(1), r.at(2), r.at(3), r.at(4), r.at(5), r.at(6), r.at(7), r.at(8), r.at(9), r.at(10)});
  return rollouts;
}

}  // namespace tessera::rl
