// Low-rank adapters (LoRA, arXiv 2106.09685) on the linears of a model, under PEFT's names.
#pragma once

#include <cstdint>

#include "model/causal_lm.h"
#include "model/lora_config.h"

namespace tessera::model {

/// Adds adapters to every linear whose last name is a target module: A uniform within 1/sqrt(in), as
/// in PEFT, B zero. Throws ConfigError for a target module that no layer has.
void add_adapters(CausalLM& model, const LoraConfig& config, uint64_t seed);

/// Adds scale * B A into the base weights and removes the adapters.
void merge_adapters(CausalLM& model);

}  // namespace tessera::model
