// The sampling options that generate and eval share.
#pragma once

#include <CLI/CLI.hpp>

#include "inference/sampler.h"
#include "launch/app.h"

namespace tessera::launch {

inline void add_sampling_options(CLI::App& cli, inference::SamplingConfig& sampling, int64_t& batch) {
  cli.add_option("--temperature", sampling.temperature, "0 = greedy")->capture_default_str();
  cli.add_option("--top-p", sampling.top_p, "smallest set of tokens with this probability")->capture_default_str();
  cli.add_option("--top-k", sampling.top_k, "the k likeliest tokens; 0 = all")->capture_default_str();
  cli.add_option("--max-new-tokens", sampling.max_new_tokens)->capture_default_str();
  cli.add_option("--seed", sampling.seed)->capture_default_str();
  cli.add_option("--batch", batch, "sequences generated at a time")->capture_default_str()->check(CLI::Range(1, 4096));
}

/// The ids that end a text for this model.
inline std::vector<int32_t> stop_ids(const LoadedModel& loaded) {
  return loaded.tokenizer.stop_ids().empty() ? loaded.model->config().eos_token_ids : loaded.tokenizer.stop_ids();
}

}  // namespace tessera::launch
