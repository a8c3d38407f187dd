// What eval says of a model: means over problems of what their completions are worth.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "data/json.h"

namespace tessera::launch {

/// One completion.
struct Judgement {
  double reward = 0;           // weighted sum of the kinds
  std::vector<double> parts;   // by kind
  bool failed = false;         // a kind has failed
  bool stopped = false;        // by itself
  std::string answer;          // as extracted from the text
};

/// 95 % interval of a share (Wilson score).
[[nodiscard]] std::pair<double, double> share_interval(double count_right, double count);

/// `judgements`: `samples` for each problem, one problem after the other, by rewards named `kinds`. Keys: count (problems), reward (mean
/// over completions), its confidence_95 (over problems), reward_<kind>, stopped, failed. Where `right_or_wrong`, all rewards being 0 or
/// 1: accuracy instead of reward, correct (completions), and of several samples pass_at_k (problems with a right completion) and majority
/// (whose most frequent answer is right, of equals the first).
[[nodiscard]] data::Json summarize(const std::vector<Judgement>& judgements, int64_t samples, const std::vector<std::string>& kinds, bool right_or_wrong);

}  // namespace tessera::launch
