// Choosing a token's experts from its scores.
#pragma once

#include <cstdint>
#include <vector>

#include "moe/config.h"

namespace tessera::moe {

/// Reusable memory of one thread.
class Selector final {
 public:
  explicit Selector(const MoeConfig& config);
  /// scores: [E]; bias: [E] or null. Writes the K chosen experts, best first; among equals the lower index.
  void choose(const float* scores, const float* bias, int32_t* chosen);

 private:
  void keep_best_groups();

  const MoeConfig& config_;
  std::vector<float> values_, groups_;
};

}  // namespace tessera::moe
