#include "rl/prompts.h"

#include <filesystem>

#include "core/error.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/random.h"

namespace tessera::rl {

Prompts::Prompts(const std::vector<data::SourceConfig>& sources, const data::PromptReader& reader, int64_t longest, uint64_t seed) : seed_(seed) {
  std::string digest = std::to_string(seed);
  for (const auto& source : sources) {
    if (std::filesystem::is_directory(source.path)) throw ConfigError(source.path + " is a folder; reinforcement learning reads single .jsonl files");
    for (const auto& line : data::read_jsonl(source.path)) {
      Prompt prompt{nlohmann::json::parse(line.value.dump()), {}, reader.read(reader.question_of(line.value, line.where), "prompt", true, line.where)};
      digest = std::to_string(hash64(digest + line.value.dump()));
      if (static_cast<int64_t>(prompt.tokens.size()) > longest) {
        ++left_out_;
        continue;
      }
      prompt.text = reader.tokenizer.decode(prompt.tokens);
      prompt.thinking_open = data::opens_thinking(prompt.text);
      prompts_.push_back(std::move(prompt));
    }
  }
  hash_ = digest;
  if (left_out_ > 0) log::warn(left_out_, " prompts of more than ", longest, " tokens are left out: nothing fits behind them");
  if (prompts_.empty()) throw ConfigError(detail::concat("no prompt is left: all ", left_out_, " are longer than ", longest, " tokens"));
}

const Prompt& Prompts::draw(int64_t index) const {
  const int64_t epoch = index / size();
  return at(static_cast<int64_t>(permute_index(seed_, static_cast<uint64_t>(epoch), static_cast<uint64_t>(index % size()), static_cast<uint64_t>(size()))));
}

}  // namespace tessera::rl
