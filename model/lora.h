// Low-rank adapters (LoRA, arXiv 2106.09685) on the linears of a model, under PEFT's names.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/causal_lm.h"

namespace tessera::model {

struct LoraConfig {
  int64_t r = 16;
  double alpha = 32;
  double dropout = 0.0;
  std::vector<std::string> target_modules = {"q_proj", "k_proj", "v_proj", "o_proj"};

  void validate() const;
  [[nodiscard]] double scale() const { return alpha / static_cast<double>(r); }
};

/// Adds adapters to every linear whose last name is a target module: A uniform within 1/sqrt(in), as
/// in PEFT, B zero. Throws ConfigError for a target module that no layer has.
void add_adapters(CausalLM& model, const LoraConfig& config, uint64_t seed);

/// Adds scale * B A into the base weights and removes the adapters.
void merge_adapters(CausalLM& model);

}  // namespace tessera::model
