#include "data/tasks/task.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>

#include "core/error.h"
#include "core/random.h"
#include "core/text.h"
#include "data/tasks/agriculture.h"
#include "data/tasks/draw.h"
#include "data/tasks/education.h"
#include "data/tasks/finance.h"
#include "data/tasks/healthcare.h"
#include "data/tasks/logistics.h"
#include "data/tasks/manufacturing.h"
#include "data/tasks/publishing.h"
#include "data/tasks/security.h"

namespace tessera::data {
namespace {

constexpr uint32_t kBucketSite = 0x4255434b;
constexpr uint64_t kNumBuckets = 5;  // one of them is held out
constexpr uint64_t kExampleSeed = 0x6578616d706c65;
/// Told with worked examples; continues the rules.
const char* format_of(Style style) {
  switch (style) {
    case Style::kWorking:
      return " Give one line of working, then a last line \"Answer: \" with the answer alone.\n\n";
    case Style::kThink:
      return " Think between <think> and </think>, then give a last line \"Answer: \" with the answer alone.\n\n";
    case Style::kAnswer:
      return " Give one line, \"Answer: \" with the answer alone.\n\n";
  }
  return "";
}

constexpr uint32_t kMaxAttempts = 4000;
constexpr uint32_t kMaxAttemptsToBeDistinct = 200;

Split split_of(const std::string& parameters) {
  uint64_t hash = 0xcbf29ce484222325ull;  // FNV-1a; spread by the generator below
  for (const char c : parameters) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return random_bits(hash, kBucketSite, 0) % kNumBuckets == 0 ? Split::kHeldOut : Split::kTrain;
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front()))) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.remove_suffix(1);
  return text;
}

/// What lies between the last `open` and the `close` after it.
std::optional<std::string_view> last_between(std::string_view text, std::string_view open, std::string_view close) {
  const size_t begin = text.rfind(open);
  if (begin == std::string_view::npos) return std::nullopt;
  text.remove_prefix(begin + open.size());
  const size_t end = text.find(close);
  if (end == std::string_view::npos) return std::nullopt;
  return text.substr(0, end);
}

std::string normalize(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (!std::isspace(static_cast<unsigned char>(c))) {
      out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
  }
  return out;
}

/// "1,250.0mg" -> 1250 and "mg".
bool parse_quantity(std::string text, double& value, std::string& unit) {
  // A comma counts as a thousands separator only before three digits; "1,5" is left alone and is no number.
  for (size_t i = 1; i < text.size(); ++i) {
    const auto digit = [&](size_t at) {
      return at < text.size() && std::isdigit(static_cast<unsigned char>(text[at]));
    };
    if (text[i] == ',' && digit(i - 1) && digit(i + 1) && digit(i + 2) && digit(i + 3) && !digit(i + 4)) {
      text.erase(i, 1);
    }
  }
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || !std::isfinite(value)) return false;
  unit.assign(end, static_cast<size_t>(text.data() + text.size() - end));
  return true;
}

/// Worked examples of one kind and difficulty, from the train split.
std::vector<Problem> examples_for(const Task& task, const Problem& problem, int64_t count) {
  std::vector<Problem> found;
  for (uint64_t i = 0; static_cast<int64_t>(found.size()) < count && i < 4096; ++i) {
    Problem candidate = task.draw(kExampleSeed, i, 0, problem.difficulty, nullptr);
    if (candidate.kind == problem.kind && split_of(candidate.parameters) == Split::kTrain) {
      found.push_back(std::move(candidate));
    }
  }
  return found;
}

}  // namespace

Split parse_split(std::string_view name) {
  if (name == "train") return Split::kTrain;
  if (name == "heldout") return Split::kHeldOut;
  throw ConfigError(detail::concat("--split ", name, " is unknown; use train or heldout"));
}

Style parse_style(std::string_view name) {
  if (name == "working") return Style::kWorking;
  if (name == "think") return Style::kThink;
  if (name == "answer") return Style::kAnswer;
  throw ConfigError(detail::concat("--style ", name, " is unknown; use working, think or answer"));
}

std::string Problem::response(Style style) const {
  const std::string line = "Answer: " + answer;
  switch (style) {
    case Style::kWorking:
      return working + "\n" + line;
    case Style::kThink:
      return "<think>\n" + working + "\n</think>\n\n" + line;
    case Style::kAnswer:
      return line;
  }
  return line;
}

Problem Task::draw(uint64_t seed, uint64_t index, uint32_t attempt, int64_t difficulty, const Kind* only) const {
  Draw choices(seed, site, index, attempt);
  int64_t total = 0;
  for (const Kind& kind : kinds) total += kind.weight;
  int64_t place = choices.below(total);
  const Kind* chosen = kinds.data();
  while (place >= chosen->weight) place -= (chosen++)->weight;
  if (only) chosen = only;
  if (difficulty == 0 && !ungraded) difficulty = choices.between(1, kMaxDifficulty);
  Problem problem = chosen->draw(choices, std::max<int64_t>(difficulty, 1));
  problem.kind = chosen->name;
  problem.reward = chosen->reward;
  problem.difficulty = difficulty;
  return problem;
}

const std::vector<Task>& tasks() {
  static const std::vector<Task> all = {healthcare_task(), finance_task(),  manufacturing_task(), agriculture_task(),
                                        education_task(),  security_task(), logistics_task(),     publishing_task()};
  return all;
}

const Task& find_task(std::string_view name) {
  std::vector<std::string> names;
  for (const Task& task : tasks()) {
    if (task.name == name) return task;
    names.push_back(task.name);
  }
  const std::string nearest = nearest_name(name, names);
  throw ConfigError(detail::concat("no task is called '", name, "'",
                                   nearest.empty() ? "" : "; did you mean " + nearest + "?", "; use ", join(names)));
}

const Kind& find_kind(const Task& task, std::string_view name) {
  std::vector<std::string> names;
  for (const Kind& kind : task.kinds) {
    if (kind.name == name) return kind;
    names.push_back(kind.name);
  }
  const std::string nearest = nearest_name(name, names);
  throw ConfigError(detail::concat("--kind ", name, " is no kind of ", task.name,
                                   nearest.empty() ? "" : "; did you mean " + nearest + "?", "; use ", join(names)));
}

std::vector<Problem> generate_problems(const Task& task, int64_t count, uint64_t seed, Split split, int64_t difficulty,
                                       const Kind* only) {
  std::vector<Problem> problems;
  problems.reserve(static_cast<size_t>(count));
  std::unordered_set<std::string> seen;
  for (int64_t i = 0; i < count; ++i) {
    for (uint32_t attempt = 0;; ++attempt) {
      TESSERA_CHECK(attempt < kMaxAttempts, "task ", task.name, " has no problem in one of its splits");
      Problem problem = task.draw(seed, static_cast<uint64_t>(i), attempt, difficulty, only);
      if (split_of(problem.parameters) != split) continue;
      if (!seen.insert(problem.prompt).second && attempt < kMaxAttemptsToBeDistinct) continue;
      problems.push_back(std::move(problem));
      break;
    }
  }
  return problems;
}

void SynthesisConfig::validate() const {
  const Task& found = find_task(task);
  if (!kind.empty()) static_cast<void>(find_kind(found, kind));
  if (count < 1) throw ConfigError(detail::concat("--count ", count, " must be at least 1"));
  if (few_shot < 0 || few_shot > 16) throw ConfigError(detail::concat("--few-shot ", few_shot, " must lie in 0..16"));
  if (difficulty < 0 || difficulty > kMaxDifficulty) {
    throw ConfigError(
        detail::concat("--difficulty ", difficulty, " must lie in 1..", kMaxDifficulty, ", or be 0 for a mixture"));
  }
}

std::vector<std::string> synthesize(const SynthesisConfig& config) {
  config.validate();
  const Task& task = find_task(config.task);
  const Kind* only = config.kind.empty() ? nullptr : &find_kind(task, config.kind);
  std::vector<std::string> lines;
  const auto turn = [](const char* role, std::string content) {
    return nlohmann::ordered_json{{"role", role}, {"content", std::move(content)}};
  };
  const auto problems = generate_problems(task, config.count, config.seed, config.split, config.difficulty, only);
  for (const Problem& problem : problems) {
    nlohmann::ordered_json messages = nlohmann::ordered_json::array();
    std::string preamble = config.few_shot > 0 ? problem.rules + format_of(config.style) : "";
    for (const Problem& example : examples_for(task, problem, config.few_shot)) {
      messages.push_back(turn("user", preamble + example.prompt));
      messages.push_back(turn("assistant", example.response(config.style)));
      preamble.clear();
    }
    messages.push_back(turn("user", preamble + problem.prompt));
    messages.push_back(turn("assistant", problem.response(config.style)));
    nlohmann::ordered_json line;
    line["messages"] = std::move(messages);
    line["prompt"] = problem.prompt;
    line["answer"] = problem.answer;
    line["task"] = task.name;
    line["kind"] = problem.kind;
    if (problem.difficulty > 0) {
      line["difficulty"] = problem.difficulty;
      line["reward"] = problem.reward;
    }
    lines.push_back(line.dump());
  }
  return lines;
}

std::string extract_answer(std::string_view text) {
  constexpr std::string_view kThoughtEnd = "</think>";
  if (const size_t end = text.rfind(kThoughtEnd); end != std::string_view::npos) {
    text.remove_prefix(end + kThoughtEnd.size());
  } else if (text.find("<think>") != std::string_view::npos) {
    return {};
  }
  std::string_view found;
  if (const auto boxed = last_between(text, "\\boxed{", "}")) {
    found = *boxed;
  } else if (const auto tagged = last_between(text, "<answer>", "</answer>")) {
    found = *tagged;
  } else {
    text = trim(text);
    constexpr std::string_view kMarker = "Answer:";
    const size_t marker = text.rfind(kMarker);
    if (marker != std::string_view::npos) {
      found = trim(text.substr(marker + kMarker.size()));
      found = found.substr(0, found.find('\n'));
    } else {
      const size_t line = text.rfind('\n');
      found = line == std::string_view::npos ? text : text.substr(line + 1);
    }
  }
  found = trim(found);
  while (!found.empty() && (found.back() == '.' || found.back() == '"' || found.back() == '*')) found.remove_suffix(1);
  while (!found.empty() && (found.front() == '"' || found.front() == '*')) found.remove_prefix(1);
  return std::string(trim(found));
}

bool answer_is_correct(std::string_view text, std::string_view answer) {
  const std::string given = normalize(extract_answer(text)), expected = normalize(answer);
  if (given.empty()) return false;
  if (given == expected) return true;
  double given_value = 0, expected_value = 0;
  std::string given_unit, expected_unit;
  return parse_quantity(given, given_value, given_unit) && parse_quantity(expected, expected_value, expected_unit) &&
         given_value == expected_value && given_unit == expected_unit;
}

}  // namespace tessera::data
