// Low-rank adapters (LoRA, arXiv 2106.09685) on the linears of a model, under PEFT's names.
#pragma once

#include <cstdint>
#include <set>
#include <string>

#include "model/causal_lm.h"
#include "model/lora_config.h"

namespace tessera::model {

/// Adds adapters to every linear whose last name is a target module: A uniform within 1/sqrt(in), as in PEFT, B zero. What
/// a tensor is filled with depends on its name and the seed only. Returns the last names of the linears that the model, or
/// the part of it that this is, has.
std::set<std::string> add_adapters(CausalLM& model, const LoraConfig& config, uint64_t seed);

/// Throws ConfigError for a target module that is not among the names that add_adapters returned.
void check_targets(const std::set<std::string>& names, const LoraConfig& config);

/// Adds scale * B A into the base weights and removes the adapters.
void merge_adapters(CausalLM& model);

}  // namespace tessera::model
