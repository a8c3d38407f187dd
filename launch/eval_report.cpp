#include "launch/eval_report.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"

namespace tessera::launch {

namespace {

constexpr double kZ = 1.959964;  // 95 % of a normal distribution

struct Mean {
  double mean = 0, low = 0, high = 0;
};

/// Of problems, which are independent; completions of one are not.
Mean mean_of(const std::vector<double>& values) {
  const auto count = static_cast<double>(values.size());
  double mean = 0, squares = 0;
  for (double v : values) mean += v / count;
  for (double v : values) squares += (v - mean) * (v - mean);
  const double half = values.size() > 1 ? kZ * std::sqrt(squares / (count - 1) / count) : 0;
  return {mean, mean - half, mean + half};
}

/// The reward of the most frequent answer.
double reward_of_majority(const Judgement* begin, const Judgement* end) {
  std::map<std::string, int64_t> votes;
  for (const auto* j = begin; j != end; ++j) ++votes[j->answer];
  const auto* best = std::max_element(begin, end, [&](const Judgement& a, const Judgement& b) { return votes[a.answer] < votes[b.answer]; });
  return best->reward;
}

}  // namespace

std::pair<double, double> share_interval(double count_right, double count) {
  const double share = count_right / count, denominator = 1 + kZ * kZ / count;
  const double centre = (share + kZ * kZ / (2 * count)) / denominator;
  const double half = kZ * std::sqrt(share * (1 - share) / count + kZ * kZ / (4 * count * count)) / denominator;
  return {centre - half, centre + half};
}

data::Json summarize(const std::vector<Judgement>& judgements, int64_t samples, const std::vector<std::string>& kinds, bool right_or_wrong) {
  TESSERA_CHECK(!judgements.empty() && judgements.size() % static_cast<size_t>(samples) == 0);
  const size_t group = static_cast<size_t>(samples), problems = judgements.size() / group;
  std::vector<double> means, parts(kinds.size());
  double right = 0, failed = 0, stopped = 0, passed = 0, majority = 0;
  for (size_t p = 0; p < problems; ++p) {
    const Judgement *begin = judgements.data() + p * group, *end = begin + group;
    double sum = 0, best = 0;
    for (const auto* j = begin; j != end; ++j) {
      sum += j->reward;
      best = std::max(best, j->reward);
      failed += j->failed ? 1 : 0;
      stopped += j->stopped ? 1 : 0;
      for (size_t k = 0; k < kinds.size(); ++k) parts[k] += j->parts[k];
    }
    right += sum;
    means.push_back(sum / static_cast<double>(samples));
    passed += best;
    majority += reward_of_majority(begin, end);
  }
  const auto count = static_cast<double>(judgements.size());
  const Mean mean = mean_of(means);
  data::Json report;
  if (right_or_wrong) {
    const auto [low, high] = samples == 1 ? share_interval(right, count) : std::pair(mean.low, mean.high);
    report = {{"accuracy", right / count}, {"correct", static_cast<int64_t>(right)}, {"count", problems}, {"confidence_95", {low, high}}};
    if (samples > 1) {
      report["pass_at_k"] = passed / static_cast<double>(problems);
      report["majority"] = majority / static_cast<double>(problems);
    }
  } else {
    report = {{"reward", mean.mean}, {"count", problems}, {"confidence_95", {mean.low, mean.high}}};
    for (size_t k = 0; k < kinds.size(); ++k) report["reward_" + kinds[k]] = parts[k] / count;
  }
  if (samples > 1) report["samples"] = samples;
  report["stopped"] = stopped / count;
  if (failed > 0) report["failed"] = failed / count;
  return report;
}

}  // namespace tessera::launch
