#include "rl/advantages.h"

#include <cmath>

#include "core/error.h"

namespace tessera::rl {

namespace {

constexpr double kEpsilon = 1e-4;  // added to the deviation

struct Moments {
  int64_t count = 0;
  double mean = 0, deviation = 0;
};

Moments moments(const std::vector<double>& rewards, const std::vector<bool>& usable, size_t begin, size_t end) {
  Moments m;
  for (size_t i = begin; i < end; ++i) {
    if (!usable[i]) continue;
    ++m.count;
    m.mean += rewards[i];
  }
  if (m.count == 0) return m;
  m.mean /= static_cast<double>(m.count);
  double squares = 0;
  for (size_t i = begin; i < end; ++i)
    if (usable[i]) squares += (rewards[i] - m.mean) * (rewards[i] - m.mean);
  if (m.count > 1) m.deviation = std::sqrt(squares / static_cast<double>(m.count - 1));
  return m;
}

}  // namespace

std::vector<double> advantages(const std::vector<double>& rewards, const std::vector<bool>& usable, int64_t group_size, const AdvantageConfig& config) {
  TESSERA_CHECK(group_size > 0 && rewards.size() % static_cast<size_t>(group_size) == 0 && usable.size() == rewards.size());
  const Moments all = moments(rewards, usable, 0, rewards.size());
  std::vector<double> result(rewards.size(), 0.0);
  for (size_t begin = 0; begin < rewards.size(); begin += static_cast<size_t>(group_size)) {
    const size_t end = begin + static_cast<size_t>(group_size);
    const Moments group = moments(rewards, usable, begin, end);
    // A group whose rewards are equal up to rounding says nothing.
    if (group.count == 0 || (group_size > 1 && group.deviation <= 1e-12 * (1 + std::abs(group.mean)))) continue;
    const auto count = static_cast<double>(group.count);
    const double deviation = config.baseline == "batch" ? all.deviation : group.deviation;
    for (size_t i = begin; i < end; ++i) {
      if (!usable[i]) continue;
      double advantage = rewards[i] - (group_size > 1 ? group.mean : all.mean);
      if (config.baseline == "leave_one_out") advantage *= count / (count - 1);
      result[i] = config.scale ? advantage / (deviation + kEpsilon) : advantage;
    }
  }
  return result;
}

}  // namespace tessera::rl
