#include "pipeline/selection.h"

#include <cmath>
#include <map>
#include <unordered_set>

#include "core/error.h"
#include "core/log.h"
#include "core/random.h"
#include "data/prompt.h"
#include "data/unicode.h"
#include "pipeline/readability.h"

namespace tessera::pipeline {

namespace {

using nlohmann::json;

/// Equal for texts that differ in blanks only.
std::string without_blanks(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c != ' ' && c != '\t' && c != '\r' && c != '\n') {
      result += c;
    } else if (!result.empty() && result.back() != ' ') {
      result += ' ';
    }
  }
  if (result.ends_with(' ')) result.pop_back();
  return result;
}

const char* reason_to_drop(const Candidate& c, const SelectionConfig& config) {
  if (!c.usable) return "reward_failed";
  if (!c.stopped) return "cut_off";
  if (c.reward < config.minimum_reward) return "low_reward";
  if (!data::is_valid_utf8(c.text)) return "not_utf8";
  const Readability readability = judge_readability(c.text);
  if (readability == Readability::kEmpty) return "empty";
  if (!config.readable || readability == Readability::kReadable) return nullptr;
  return readability == Readability::kRepeated ? "repeated" : "mixed_scripts";
}

std::string sample_line(const Candidate& candidate, const rl::Prompt& prompt, bool chat) {
  json line = prompt.sample;
  line["reward"] = candidate.reward;
  if (!chat) {
    line["completion"] = candidate.text;
    return line.dump();
  }
  // What the template has opened is part of the turn that it will be asked to write again.
  const std::string opening = prompt.thinking_open ? prompt.text.substr(prompt.text.rfind("<think>")) : "";
  json messages = line.contains("messages") ? line["messages"] : json::array({{{"role", "user"}, {"content", line["prompt"]}}});
  if (messages.back().value("role", "") == "assistant") messages.erase(messages.size() - 1);
  messages.push_back({{"role", "assistant"}, {"content", opening + candidate.text}});
  line["messages"] = std::move(messages);
  line.erase("prompt");  // a line holds one sample
  line.erase("completion");
  return line.dump();
}

void add_mix(const SelectionConfig& config, uint64_t seed, Selection& selection) {
  double shares = 0;
  for (const auto& source : config.mix) shares += source.share;
  const double total = static_cast<double>(selection.lines.size()) / (1 - shares);
  for (size_t k = 0; k < config.mix.size(); ++k) {
    const auto lines = data::read_jsonl(config.mix[k].path);
    auto wanted = static_cast<uint64_t>(std::llround(config.mix[k].share * total));
    if (wanted > lines.size()) {
      log::warn(config.mix[k].path, " has ", lines.size(), " lines, and a share of ", config.mix[k].share, " asks for ", wanted, "; all are taken");
      wanted = lines.size();
    }
    for (uint64_t i = 0; i < wanted; ++i) selection.lines.push_back(lines[permute_index(seed, k, i, lines.size())].value.dump());
    selection.counts["mixed"][config.mix[k].path] = wanted;
  }
}

}  // namespace

Selection select(const std::vector<Candidate>& candidates, const rl::Prompts& prompts, const SelectionConfig& config, bool chat, uint64_t seed) {
  Selection selection;
  std::map<std::string, int64_t> dropped;
  std::unordered_set<std::string> seen;
  int64_t prompt = -1, kept_of_prompt = 0, kept = 0, prompts_kept = 0;
  for (const auto& candidate : candidates) {
    if (candidate.prompt != prompt) {
      prompt = candidate.prompt;
      kept_of_prompt = 0;
    }
    const rl::Prompt& asked = prompts.draw(candidate.prompt);
    const char* reason = reason_to_drop(candidate, config);
    if (reason == nullptr && !seen.insert(asked.text + '\0' + without_blanks(candidate.text)).second) reason = "duplicate";
    if (reason == nullptr && kept_of_prompt == config.keep_per_prompt) reason = "more_than_keep_per_prompt";
    if (reason == nullptr && config.limit > 0 && kept == config.limit) reason = "over_limit";
    if (reason != nullptr) {
      ++dropped[reason];
      continue;
    }
    prompts_kept += kept_of_prompt++ == 0 ? 1 : 0;
    ++kept;
    selection.lines.push_back(sample_line(candidate, asked, chat));
  }
  selection.counts = {{"sampled", candidates.size()}, {"prompts", prompts.size()}, {"kept", kept}, {"prompts_kept", prompts_kept}, {"dropped", dropped}};
  if (kept == 0)
    throw ConfigError(detail::concat("no completion is good enough to be kept, of ", candidates.size(), " (dropped: ", json(dropped).dump(),
                                     "); lower minimum_reward, sample more, or train the model further"));
  add_mix(config, seed, selection);
  return selection;
}

}  // namespace tessera::pipeline
