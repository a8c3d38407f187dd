#include "rl/choices.h"

#include <ATen/ops/zeros.h>

#include <algorithm>

#include "core/error.h"

namespace tessera::rl {

namespace {

/// Runs body(rollout, whether its prompt comes with it) for those that train.
template <typename Rollouts, typename Body>
void for_each_packed(Rollouts& rollouts, const Body& body) {
  int64_t prompt = -1;
  for (auto& rollout : rollouts) {
    if (!rollout.trains) continue;
    body(rollout, rollout.prompt != prompt);
    prompt = rollout.prompt;
  }
}

/// Takes the next `tokens` of all lists.
ExpertChoices take(const ExpertChoices& lists, size_t per_token, size_t tokens, size_t& taken) {
  ExpertChoices result;
  for (const auto& [layer, rows] : lists) {
    TESSERA_CHECK(rows.size() >= (taken + tokens) * per_token, "choices of layer ", layer, " for other rollouts");
    const auto begin = rows.begin() + static_cast<std::ptrdiff_t>(taken * per_token);
    result[layer].assign(begin, begin + static_cast<std::ptrdiff_t>(tokens * per_token));
  }
  taken += tokens;
  return result;
}

}  // namespace

ExpertChoices pack_choices(const std::vector<Rollout>& rollouts) {
  ExpertChoices lists;
  for_each_packed(rollouts, [&](const Rollout& r, bool with_prompt) {
    if (with_prompt && r.prompt_experts) append_choices(lists, *r.prompt_experts);
    append_choices(lists, r.experts);
  });
  return lists;
}

int64_t count_packed(const std::vector<Rollout>& rollouts) {
  size_t tokens = 0;
  for_each_packed(rollouts, [&](const Rollout& r, bool with_prompt) { tokens += r.tokens.size() + (with_prompt ? r.prompt_tokens.size() : 0); });
  return static_cast<int64_t>(tokens);
}

void unpack_choices(const ExpertChoices& lists, int64_t per_token, std::vector<Rollout>& rollouts) {
  const auto k = static_cast<size_t>(per_token);
  size_t taken = 0;
  std::shared_ptr<const ExpertChoices> prompt;
  for_each_packed(rollouts, [&](Rollout& r, bool with_prompt) {
    if (with_prompt) prompt = std::make_shared<const ExpertChoices>(take(lists, k, r.prompt_tokens.size(), taken));
    r.prompt_experts = prompt;
    r.experts = take(lists, k, r.tokens.size(), taken);
  });
}

void exchange_choices(const Policy& policy, std::vector<Rollout>& rollouts) {
  const ExpertChoices recorded = pack_choices(rollouts);
  const int64_t per_token = experts_per_token(policy), count = count_packed(rollouts) * per_token;
  if (count == 0) return;  // on all ranks of the pipeline, which have the same rollouts
  ExpertChoices lists;
  for (const int64_t layer : policy.exchanged_layers) {
    at::Tensor list = at::zeros({count}, at::kInt);  // one rank has the layer: the sum is its list
    if (const auto found = recorded.find(layer); found != recorded.end()) std::copy(found->second.begin(), found->second.end(), list.data_ptr<int32_t>());
    policy.mesh->axis("pp").all_reduce(list, parallel::ReduceOp::kSum, "choices of experts")->wait();
    if (std::find(policy.trained_layers.begin(), policy.trained_layers.end(), layer) == policy.trained_layers.end()) continue;
    const int32_t* values = list.const_data_ptr<int32_t>();
    std::transform(values, values + count, std::back_inserter(lists[layer]), [](int32_t v) { return static_cast<int16_t>(v); });
  }
  unpack_choices(lists, per_token, rollouts);
}

std::vector<int64_t> recorded_layers(const Policy& policy) {
  std::vector<int64_t> layers;
  for (const auto& stage : policy.layout.stages)
    if (stage.model != nullptr)
      for (const auto& router : stage.model->routers()) layers.push_back(router.layer);
  return layers;
}

int64_t experts_per_token(const Policy& policy) {
  for (const auto& stage : policy.layout.stages)
    if (stage.model != nullptr) return stage.model->config().moe.experts_per_token;
  throw InternalError("a policy without a part of the model");
}

}  // namespace tessera::rl
