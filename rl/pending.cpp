#include "rl/pending.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>

#include "rl/choices.h"

namespace tessera::rl {

namespace {

using nlohmann::json;

constexpr const char* kKind = "rollouts";  // in checkpoints

std::string part_name(const std::string& phase, size_t part) { return phase + ".part-" + std::to_string(part); }

/// Bytes as float32 words, which checkpoints hold.
template <typename T>
at::Tensor to_words(const std::vector<T>& list) {
  const size_t bytes = list.size() * sizeof(T);
  at::Tensor words = at::zeros({static_cast<int64_t>(bytes + 3) / 4}, at::kFloat);
  std::memcpy(words.data_ptr(), list.data(), bytes);
  return words;
}

template <typename T>
std::vector<T> read_list(checkpoint::CheckpointReader& reader, const std::string& name, size_t count) {
  std::vector<T> list(count);
  at::Tensor words = to_words(list);
  reader.read(kKind, name, 0, words);
  std::memcpy(list.data(), words.const_data_ptr(), count * sizeof(T));
  return list;
}

std::string choices_name(const std::string& part, int64_t layer) { return part + ".experts-of-layer-" + std::to_string(layer); }

/// One rank's part in the layout that saved it.
std::vector<Rollout> read_part(checkpoint::CheckpointReader& reader, const std::string& name, size_t bytes, const Policy& policy) {
  auto rollouts = unpack_rollouts(read_list<uint8_t>(reader, name, bytes));
  ExpertChoices lists;
  const auto count = static_cast<size_t>(count_packed(rollouts) * experts_per_token(policy));
  for (const int64_t layer : policy.trained_layers)
    if (count > 0 && reader.has(kKind, choices_name(name, layer))) lists[layer] = read_list<int16_t>(reader, choices_name(name, layer), count);
  if (!lists.empty()) unpack_choices(lists, experts_per_token(policy), rollouts);
  return rollouts;
}

json to_json(const PhaseStatistics& s) {
  return {s.rollouts, s.tokens, s.usable, s.truncated, s.zero_advantage, s.reward, s.reward_deviation, s.length, s.parts, s.digest};
}

PhaseStatistics statistics_of(const json& s) {
  return {.rollouts = s[0], .tokens = s[1], .usable = s[2], .truncated = s[3], .zero_advantage = s[4], .prompts_drawn = 0, .resamples = 0,
          .reward = s[5], .reward_deviation = s[6], .length = s[7], .parts = s[8].get<std::vector<double>>(), .digest = s[9], .rollout_seconds = 0,
          .reward_seconds = 0};
}

}  // namespace

void list_phase(const std::string& name, const Phase& phase, const Policy& policy, trainer::RunState& state) {
  const parallel::Mesh& mesh = *policy.mesh;
  const auto bytes = pack_rollouts(phase.rollouts);
  const auto part = static_cast<size_t>(mesh.coordinate("dp"));
  std::vector<int64_t> sizes(static_cast<size_t>(mesh.size("dp")));
  sizes[part] = static_cast<int64_t>(bytes.size());
  at::Tensor all = at::tensor(sizes, at::kLong);
  mesh.world().all_reduce(all, parallel::ReduceOp::kMax, "sizes of pending rollouts")->wait();
  const std::vector<int64_t> parts(all.const_data_ptr<int64_t>(), all.const_data_ptr<int64_t>() + all.numel());
  state.values[name] = {{"parts", parts}, {"tokens", phase.tokens}, {"stale", phase.stale}, {"statistics", to_json(phase.statistics)}};
  if (mesh.coordinate("pp") == 0) state.ranges.push_back({kKind, part_name(name, part), 0, to_words(bytes)});
  const ExpertChoices choices = pack_choices(phase.rollouts);
  for (const int64_t layer : recorded_layers(policy))
    if (const auto found = choices.find(layer); found != choices.end())
      state.ranges.push_back({kKind, choices_name(part_name(name, part), layer), 0, to_words(found->second)});
}

Phase read_phase(const std::string& name, checkpoint::CheckpointReader& reader, const json& values, const Policy& policy) {
  const json& v = values.at(name);
  Phase phase;
  phase.tokens = v.at("tokens").get<std::vector<int64_t>>();
  phase.stale = v.at("stale").get<bool>();
  phase.statistics = statistics_of(v.at("statistics"));
  const auto sizes = v.at("parts").get<std::vector<size_t>>();
  std::vector<Rollout> all;
  for (size_t p = 0; p < sizes.size(); ++p)
    for (auto& rollout : read_part(reader, part_name(name, p), sizes[p], policy)) all.push_back(std::move(rollout));
  // Dealt by place, whatever the layout was.
  std::sort(all.begin(), all.end(), [](const Rollout& a, const Rollout& b) { return a.place < b.place; });
  const auto dp = static_cast<size_t>(policy.mesh->size("dp")), rank = static_cast<size_t>(policy.mesh->coordinate("dp"));
  const auto at = [&](size_t part) { return all.begin() + static_cast<std::ptrdiff_t>(all.size() * part / dp); };
  phase.rollouts.assign(std::make_move_iterator(at(rank)), std::make_move_iterator(at(rank + 1)));
  return phase;
}

}  // namespace tessera::rl
