#include "rl/rollouts.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "core/clock.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/text.h"
#include "rl/choices.h"

namespace tessera::rl {

namespace {

constexpr uint64_t kSampleSite = 0x524F4C4C;  // "ROLL"

/// Small enough for a sum of thousands to be exact in a double.
double digest(const std::vector<int32_t>& tokens, size_t place) {
  const std::string_view bytes(reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(int32_t));
  return static_cast<double>((hash64(bytes) ^ (place * 0x9E3779B97F4A7C15u)) >> 24);
}

/// This rank's part of `count` rollouts.
std::pair<size_t, size_t> share(const parallel::Mesh& mesh, size_t count) {
  const auto rank = static_cast<size_t>(mesh.coordinate("dp")), size = static_cast<size_t>(mesh.size("dp"));
  return {count * rank / size, count * (rank + 1) / size};
}

}  // namespace

Policy policy_of(const trainer::Stages& stages, const parallel::Mesh& mesh) {
  inference::ModelLayout layout;
  const auto& route = stages.route();
  for (size_t number = 0; number < route.size(); ++number) {
    layout.stages.push_back({nullptr, route[number]});
    if (route[number] != mesh.coordinate("pp")) continue;
    for (const auto& stage : stages.stages())
      if (stage->number == static_cast<int32_t>(number)) layout.stages.back().model = stage->model.get();
  }
  layout.pipeline = &mesh.axis("pp");
  layout.experts = &mesh.axis("ep");
  Policy policy{std::move(layout), &mesh};
  for (const auto& router : stages.routers()) policy.trained_layers.push_back(router.layer);
  if (stages.bidirectional()) policy.exchanged_layers = stages.moe_layers();
  return policy;
}

RolloutMaker::RolloutMaker(const RlConfig& config, const data::Tokenizer& tokenizer, std::vector<int32_t> stop_ids, uint64_t seed)
    : config_(config), tokenizer_(tokenizer), stop_ids_(std::move(stop_ids)), seed_(seed), rewards_(std::make_unique<RewardSet>(config.rewards)),
      names_(rewards_->names()) {}

inference::SamplingConfig RolloutMaker::sampling() const {
  return {.temperature = config_.temperature, .top_p = config_.top_p, .max_new_tokens = config_.max_new_tokens, .seed = seed_ ^ kSampleSite,
          .stop_ids = stop_ids_, .stop_texts = config_.stop, .log_probs = true};
}

std::string RolloutMaker::text_of(const Rollout& rollout) const {
  auto tokens = rollout.tokens;
  if (!tokens.empty() && std::find(stop_ids_.begin(), stop_ids_.end(), tokens.back()) != stop_ids_.end()) tokens.pop_back();
  return tokenizer_.decode(tokens);
}

std::vector<Rollout> RolloutMaker::complete(const Policy& policy, const std::vector<Wanted>& wanted, const inference::SamplingConfig& sampling,
                                            const std::function<void(int64_t)>& done) const {
  const auto [begin, end] = share(*policy.mesh, wanted.size());
  std::vector<inference::Request> requests;
  for (size_t i = begin; i < end; ++i) {
    if (requests.empty() || wanted[i].prompt != wanted[i - 1].prompt || wanted[i].number != wanted[i - 1].number)
      requests.push_back({wanted[i].prompt->tokens, {}});
    // What is drawn depends on the seed, the prompt's number and the place in the group.
    requests.back().samples.push_back(static_cast<uint64_t>(wanted[i].number) << 20 | static_cast<uint64_t>(wanted[i].index));
  }
  inference::Engine engine(policy.layout, {.max_batch = config_.generation_batch, .draft = false, .tokenizer = &tokenizer_,
                                           .record_experts = config_.routing_replay});
  auto completions = engine.generate(requests, sampling, done);
  std::vector<Rollout> rollouts;
  for (size_t i = begin; i < end; ++i) {
    auto& completion = completions[i - begin];
    Rollout r{wanted[i].number, wanted[i].index, wanted[i].prompt->tokens, std::move(completion.tokens), std::move(completion.log_probs),
              completion.finish_reason == "stop"};
    if (completion.stop_id >= 0) r.tokens.push_back(completion.stop_id);
    r.experts = std::move(completion.experts);
    r.prompt_experts = std::move(completion.prompt_experts);
    rollouts.push_back(std::move(r));
  }
  return rollouts;
}

/// On the ranks of the first stage; the others hear of it.
RolloutMaker::Scored RolloutMaker::score(const parallel::Mesh& mesh, const std::vector<Wanted>& wanted, const std::vector<Rollout>& mine) {
  constexpr int64_t kFixed = 5;  // total, usable, stopped, length, digest; then the parts
  const auto kinds = static_cast<int64_t>(names_.size()), columns = kFixed + kinds;
  at::Tensor table = at::zeros({static_cast<int64_t>(wanted.size()), columns}, at::kDouble);
  if (mesh.coordinate("pp") == 0) {
    const size_t begin = share(mesh, wanted.size()).first;
    std::vector<std::string> texts;
    std::vector<RewardInput> inputs;
    for (const Rollout& r : mine) texts.push_back(text_of(r));
    for (size_t i = 0; i < mine.size(); ++i) {
      const Prompt& prompt = *wanted[begin + i].prompt;
      inputs.push_back({&prompt.sample, prompt.text, texts[i], static_cast<int64_t>(mine[i].tokens.size()), mine[i].stopped, prompt.thinking_open});
    }
    const auto totals = rewards_->score(inputs);
    for (size_t i = 0; i < mine.size(); ++i) {
      double* row = table.data_ptr<double>() + static_cast<int64_t>(begin + i) * columns;
      row[0] = totals[i].total;
      row[1] = totals[i].failed ? 0 : 1;
      row[2] = mine[i].stopped ? 1 : 0;
      row[3] = static_cast<double>(mine[i].tokens.size());
      row[4] = digest(mine[i].tokens, begin + i);
      for (int64_t k = 0; k < kinds; ++k) row[kFixed + k] = totals[i].parts[static_cast<size_t>(k)];
    }
  }
  mesh.world().all_reduce(table, parallel::ReduceOp::kSum, "rewards")->wait();
  Scored scored;
  scored.parts.resize(names_.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double* row = table.const_data_ptr<double>() + static_cast<int64_t>(i) * columns;
    scored.rewards.push_back(row[0]);
    scored.usable.push_back(row[1] > 0);
    scored.stopped.push_back(row[2] > 0);
    scored.lengths.push_back(static_cast<int64_t>(row[3]));
    scored.digest += row[4];
    for (int64_t k = 0; k < kinds; ++k) scored.parts[static_cast<size_t>(k)].push_back(row[kFixed + k]);
  }
  return scored;
}

void RolloutMaker::count(const Scored& scored, const std::vector<double>& advantages, PhaseStatistics& s) const {
  s.parts.assign(names_.size(), 0.0);
  s.digest = scored.digest;
  for (size_t i = 0; i < scored.rewards.size(); ++i) {
    ++s.rollouts;
    s.tokens += scored.lengths[i];
    s.truncated += scored.stopped[i] ? 0 : 1;
    s.zero_advantage += advantages[i] == 0 ? 1 : 0;
    if (!scored.usable[i]) continue;
    ++s.usable;
    s.reward += scored.rewards[i];
    s.length += static_cast<double>(scored.lengths[i]);
    for (size_t k = 0; k < names_.size(); ++k) s.parts[k] += scored.parts[k][i];
  }
  const double usable = std::max<double>(1, static_cast<double>(s.usable));
  s.reward /= usable;
  s.length /= usable;
  for (double& part : s.parts) part /= usable;
  double squares = 0;
  for (size_t i = 0; i < scored.rewards.size(); ++i)
    if (scored.usable[i]) squares += (scored.rewards[i] - s.reward) * (scored.rewards[i] - s.reward);
  s.reward_deviation = std::sqrt(squares / usable);
}

std::string RolloutMaker::describe(const std::vector<Wanted>& wanted, size_t begin, const std::vector<Rollout>& mine, const Scored& scored) const {
  std::string text;
  for (size_t i = 0; i < mine.size() && mine[i].prompt == mine.front().prompt; ++i) {
    if (i == 0) text += "## Prompt\n\n" + wanted[begin].prompt->text + "\n";
    text += detail::concat("\n## Completion ", mine[i].index, ": reward ", short_number(scored.rewards[begin + i]), scored.usable[begin + i] ? "" : " (failed)",
                           ", ", mine[i].tokens.size(), " tokens", mine[i].stopped ? "" : ", cut off", "\n\n", text_of(mine[i]), "\n");
  }
  return text;
}

Phase RolloutMaker::make(const Policy& policy, const Prompts& prompts, int64_t first_prompt, int64_t num_prompts, bool with_samples,
                         const std::function<void(int64_t)>& done) {
  Phase phase;
  phase.next_prompt = first_prompt;
  const auto group = config_.rollouts_per_prompt;
  const AdvantageConfig advantage_config{config_.advantage, config_.scale_advantage && config_.objective != "dr_grpo"};
  while (true) {
    std::vector<Wanted> wanted;
    const int64_t missing = num_prompts - static_cast<int64_t>(phase.tokens.size()) / group;
    for (int64_t p = 0; p < missing; ++p) {
      const Prompt& prompt = prompts.draw(phase.next_prompt);
      for (int64_t i = 0; i < group; ++i) wanted.push_back({&prompt, phase.next_prompt, i});
      ++phase.next_prompt;
    }
    auto start = Clock::now();
    auto mine = complete(policy, wanted, sampling(), done);
    phase.statistics.rollout_seconds += seconds_since(start);
    start = Clock::now();
    const Scored scored = score(*policy.mesh, wanted, mine);
    phase.statistics.reward_seconds += seconds_since(start);
    const auto values = advantages(scored.rewards, scored.usable, group, advantage_config);
    const size_t begin = share(*policy.mesh, wanted.size()).first;
    if (phase.samples.empty() && with_samples) phase.samples = describe(wanted, begin, mine, scored);
    const bool whole_gradient = config_.kl_coefficient > 0 || !config_.skip_zero_advantage;
    std::vector<int64_t> tokens(wanted.size());
    for (size_t i = 0; i < wanted.size(); ++i)
      tokens[i] = scored.usable[i] && !(config_.mask_truncated && !scored.stopped[i]) ? scored.lengths[i] : 0;
    for (size_t i = 0; i < mine.size(); ++i) {
      mine[i].reward = scored.rewards[begin + i];
      mine[i].usable = scored.usable[begin + i];
      mine[i].advantage = values[begin + i];
      mine[i].trains = tokens[begin + i] > 0 && (whole_gradient || values[begin + i] != 0);
      if (mine[i].trains) continue;
      mine[i].experts.clear();
      mine[i].prompt_experts.reset();
    }
    if (phase.statistics.rollouts == 0) count(scored, values, phase.statistics);
    phase.statistics.prompts_drawn += missing;
    const bool last_try = !config_.dynamic_sampling || phase.statistics.resamples >= config_.max_resamples;
    for (size_t g = 0; g < wanted.size(); g += static_cast<size_t>(group)) {
      const auto end = static_cast<std::ptrdiff_t>(g) + group;
      const bool teaches = std::any_of(values.begin() + static_cast<std::ptrdiff_t>(g), values.begin() + end, [](double v) { return v != 0; });
      if (!teaches && !last_try) continue;
      for (auto& r : mine) {
        if (r.prompt != wanted[g].number) continue;
        r.place = static_cast<int64_t>(phase.tokens.size()) + r.index;
        phase.rollouts.push_back(std::move(r));
      }
      phase.tokens.insert(phase.tokens.end(), tokens.begin() + static_cast<std::ptrdiff_t>(g), tokens.begin() + end);
    }
    if (static_cast<int64_t>(phase.tokens.size()) >= num_prompts * group) {
      if (config_.routing_replay && !policy.exchanged_layers.empty()) exchange_choices(policy, phase.rollouts);
      return phase;
    }
    ++phase.statistics.resamples;
  }
}

std::vector<double> RolloutMaker::evaluate(const Policy& policy, const Prompts& prompts, const std::function<void(int64_t)>& done) {
  std::vector<Wanted> wanted;
  for (int64_t i = 0; i < prompts.size(); ++i) wanted.push_back({&prompts.at(i), i, 0});
  auto greedy = sampling();
  greedy.temperature = 0;
  greedy.log_probs = false;
  const Scored scored = score(*policy.mesh, wanted, complete(policy, wanted, greedy, done));
  std::vector<double> means = {0};
  for (double reward : scored.rewards) means[0] += reward / static_cast<double>(wanted.size());
  for (const auto& part : scored.parts) {
    means.push_back(0);
    for (double value : part) means.back() += value / static_cast<double>(wanted.size());
  }
  return means;
}

}  // namespace tessera::rl
