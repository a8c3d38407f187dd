// From sampled completions to a file of training samples: what is good is kept, told apart from what is not by a count for each reason.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "pipeline/config.h"
#include "rl/prompts.h"

namespace tessera::pipeline {

struct Candidate {
  int64_t prompt = 0, index = 0;  // its number in the order of prompts, within the group
  std::string text;
  double reward = 0;
  bool usable = true;   // has a reward
  bool stopped = true;  // by itself
};

struct Selection {
  std::vector<std::string> lines;  // JSON objects
  nlohmann::json counts;           // sampled, kept, mixed, and by what was dropped why
};

/// `candidates` in the order of (prompt, index). The first ones of each prompt that are good are kept. Lines have the fields of the prompt's
/// line, its messages with the completion as the assistant's turn (or prompt and completion, where the model has no chat template), and
/// the reward. Throws ConfigError: a mix that cannot be read, nothing kept.
[[nodiscard]] Selection select(const std::vector<Candidate>& candidates, const rl::Prompts& prompts, const SelectionConfig& config, bool chat,
                               uint64_t seed);

}  // namespace tessera::pipeline
