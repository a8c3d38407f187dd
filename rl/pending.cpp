#include "rl/pending.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>

namespace tessera::rl {

namespace {

using nlohmann::json;

constexpr const char* kKind = "rollouts";  // in checkpoints

std::string part_name(const std::string& phase, size_t part) { return phase + ".part-" + std::to_string(part); }

/// Bytes as float32 words, which checkpoints hold.
at::Tensor to_words(const std::vector<uint8_t>& bytes) {
  at::Tensor words = at::zeros({static_cast<int64_t>(bytes.size() + 3) / 4}, at::kFloat);
  std::memcpy(words.data_ptr(), bytes.data(), bytes.size());
  return words;
}

std::vector<uint8_t> read_bytes(checkpoint::CheckpointReader& reader, const std::string& name, size_t count) {
  std::vector<uint8_t> bytes(count);
  at::Tensor words = to_words(bytes);
  reader.read(kKind, name, 0, words);
  std::memcpy(bytes.data(), words.const_data_ptr(), bytes.size());
  return bytes;
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

void list_phase(const std::string& name, const Phase& phase, const parallel::Mesh& mesh, trainer::RunState& state) {
  const auto bytes = pack_rollouts(phase.rollouts);
  const auto part = static_cast<size_t>(mesh.coordinate("dp"));
  std::vector<int64_t> sizes(static_cast<size_t>(mesh.size("dp")));
  sizes[part] = static_cast<int64_t>(bytes.size());
  at::Tensor all = at::tensor(sizes, at::kLong);
  mesh.world().all_reduce(all, parallel::ReduceOp::kMax, "sizes of pending rollouts")->wait();
  const std::vector<int64_t> parts(all.const_data_ptr<int64_t>(), all.const_data_ptr<int64_t>() + all.numel());
  state.values[name] = {{"parts", parts}, {"tokens", phase.tokens}, {"stale", phase.stale}, {"statistics", to_json(phase.statistics)}};
  if (mesh.coordinate("pp") == 0) state.ranges.push_back({kKind, part_name(name, part), 0, to_words(bytes)});
}

Phase read_phase(const std::string& name, checkpoint::CheckpointReader& reader, const json& values, const parallel::Mesh& mesh) {
  const json& v = values.at(name);
  Phase phase;
  phase.tokens = v.at("tokens").get<std::vector<int64_t>>();
  phase.stale = v.at("stale").get<bool>();
  phase.statistics = statistics_of(v.at("statistics"));
  const auto sizes = v.at("parts").get<std::vector<size_t>>();
  std::vector<Rollout> all;
  for (size_t p = 0; p < sizes.size(); ++p)
    for (auto& rollout : unpack_rollouts(read_bytes(reader, part_name(name, p), sizes[p]))) all.push_back(std::move(rollout));
  // Dealt by place, whatever the layout was.
  std::sort(all.begin(), all.end(), [](const Rollout& a, const Rollout& b) { return a.place < b.place; });
  const auto dp = static_cast<size_t>(mesh.size("dp")), rank = static_cast<size_t>(mesh.coordinate("dp"));
  const auto at = [&](size_t part) { return all.begin() + static_cast<std::ptrdiff_t>(all.size() * part / dp); };
  phase.rollouts.assign(std::make_move_iterator(at(rank)), std::make_move_iterator(at(rank + 1)));
  return phase;
}

}  // namespace tessera::rl
