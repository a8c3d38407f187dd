// What a run is told about low-rank adapters (LoRA, arXiv 2106.09685).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tessera::model {

struct LoraConfig {
  int64_t r = 16;
  double alpha = 32;
  double dropout = 0.0;
  std::string base = "float32";  // in what the frozen linears and experts are kept: float32 | fp8
  std::vector<std::string> target_modules = {"q_proj", "k_proj", "v_proj", "o_proj"};

  void validate() const;
  [[nodiscard]] double scale() const { return alpha / static_cast<double>(r); }
};

}  // namespace tessera::model
