// Sector tasks: endless problems of a sector with short answers that can be verified, for fine-tuning, for rewards and
// for evaluation. `tessera synthesize` writes them. Every rule is the task's own and stated with the problem's kind:
// arithmetic, coding of records, sorting by given rules; nothing here is advice.
//
// Problem i of (seed, split) depends on those, the difficulty and the kind asked for only. Train and held-out are apart
// by construction, at every difficulty: a problem's parameters hash into one of five buckets, and one bucket is held
// out.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::data {

class Draw;

enum class Split { kTrain, kHeldOut };

/// "train" or "heldout"; throws ConfigError otherwise.
[[nodiscard]] Split parse_split(std::string_view name);

/// What the assistant's turn holds besides the line "Answer: ...".
enum class Style {
  kWorking,  // the working, in a line before it
  kThink,    // the working, between <think> and </think>
  kAnswer,   // nothing
};

/// "working", "think" or "answer"; throws ConfigError otherwise.
[[nodiscard]] Style parse_style(std::string_view name);

/// Problems are graded from 1, one step and short, to this, several steps over several records.
constexpr int64_t kMaxDifficulty = 5;

struct Problem {
  std::string kind;     // of the problem within the task: "coding", "dose", ...
  std::string prompt;   // what the user says
  std::string working;  // one line, a chain of steps that leads to the answer
  std::string answer;
  std::string rules;       // of this kind and difficulty, in words: what one must know to solve it
  std::string parameters;  // what the answer depends on; decides the bucket
  std::string reward;      // as of the Kind
  int64_t difficulty = 0;  // 1 to kMaxDifficulty; 0: not graded

  /// The assistant's turn, whose last line is "Answer: ...".
  [[nodiscard]] std::string response(Style style = Style::kWorking) const;
};

/// One kind of a task's problems.
struct Kind {
  std::string name;
  // How reinforcement learning would judge an answer: "numeric" (a number with its unit), "exact" (a text), "choice"
  // (one of the options in the prompt) or "set" (items separated by commas). answer_is_correct judges all of them.
  std::string reward;
  int64_t weight;                                   // share of the task's problems
  Problem (*draw)(Draw& draw, int64_t difficulty);  // sets all but kind, reward and difficulty
};

struct Task {
  std::string name;
  std::string description;
  uint32_t site;  // keeps this task's draws apart from others'
  std::vector<Kind> kinds;
  // Difficulty 0 draws the problems of before there were grades, which those of difficulty 1 equal; otherwise a mixture
  // of all.
  bool ungraded = false;

  /// A problem of any bucket; of `only` that kind unless it is null.
  [[nodiscard]] Problem draw(uint64_t seed, uint64_t index, uint32_t attempt, int64_t difficulty,
                             const Kind* only) const;
};

/// All tasks, in a fixed order.
[[nodiscard]] const std::vector<Task>& tasks();

/// Throws ConfigError naming the nearest task and all tasks.
[[nodiscard]] const Task& find_task(std::string_view name);

/// Throws ConfigError naming the nearest kind and all kinds of the task.
[[nodiscard]] const Kind& find_kind(const Task& task, std::string_view name);

/// `count` problems of one split, distinct as long as the task has that many; of one kind if `only` is not null.
[[nodiscard]] std::vector<Problem> generate_problems(const Task& task, int64_t count, uint64_t seed, Split split,
                                                     int64_t difficulty = 0, const Kind* only = nullptr);

struct SynthesisConfig {
  std::string task;
  int64_t count = 1000;
  uint64_t seed = 0;
  Split split = Split::kTrain;
  int64_t difficulty = 0;  // 1 to kMaxDifficulty; 0 = mixed
  std::string kind{};      // empty = all kinds of the task
  Style style = Style::kWorking;
  int64_t few_shot = 0;  // worked examples of the kind and difficulty, with its rules, put before each problem

  void validate() const;  // throws ConfigError
};

/// One JSON object a problem: messages (the last one the assistant's), prompt, answer, task, kind, and of graded
/// problems difficulty and reward. Without newlines.
[[nodiscard]] std::vector<std::string> synthesize(const SynthesisConfig& config);

/// The answer in a model's text: the last \boxed{...}, else the last <answer>...</answer>, else what follows the last
/// "Answer:", else the last line. Without surrounding blanks, quotes and a final full stop. Thoughts hold no answer:
/// only what follows the last </think> counts, and nothing does behind a <think> that does not end.
[[nodiscard]] std::string extract_answer(std::string_view text);

/// Whether `text` ends in `answer`: equal up to case and blanks, or as numbers with equal units.
[[nodiscard]] bool answer_is_correct(std::string_view text, std::string_view answer);

}  // namespace tessera::data
