// The prompts of a run: data lines with what the rewards read, in a shuffled order that repeats without end.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/prompt.h"

namespace tessera::rl {

struct Prompt {
  nlohmann::json sample;        // the data line
  std::string text;             // as the model sees it
  std::vector<int32_t> tokens;
  bool thinking_open = false;   // the template has written <think>
};

class Prompts final {
 public:
  /// Reads JSONL sources with "prompt" or "messages". Prompts of more than `longest` tokens are left out, with a warning that counts
  /// them. Throws ConfigError: a bad line, no prompt left.
  Prompts(const std::vector<data::SourceConfig>& sources, const data::PromptReader& reader, int64_t longest, uint64_t seed);

  [[nodiscard]] int64_t size() const { return static_cast<int64_t>(prompts_.size()); }
  [[nodiscard]] int64_t left_out() const { return left_out_; }
  /// In the order of the files.
  [[nodiscard]] const Prompt& at(int64_t index) const { return prompts_[static_cast<size_t>(index)]; }
  /// Number `index` >= 0 of the endless order: every pass is shuffled anew.
  [[nodiscard]] const Prompt& draw(int64_t index) const;
  /// Of all lines and the order.
  [[nodiscard]] const std::string& hash() const { return hash_; }

 private:
  std::vector<Prompt> prompts_;
  int64_t left_out_ = 0;
  uint64_t seed_;
  std::string hash_;
};

}  // namespace tessera::rl
