// Sector tasks: endless problems of a sector with short answers that can be verified, for fine-tuning, for rewards and
// for evaluation. `tessera synthesize` writes them. Every rule is the task's own and stated with the problem's kind: arithmetic,
// coding of records, sorting by given rules; nothing here is advice.
//
// Problem i of (seed, split) depends on those three only. Train and held-out are apart by construction: a problem's
// parameters hash into one of five buckets, and one bucket is held out.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::data {

enum class Split { kTrain, kHeldOut };

/// "train" or "heldout"; throws ConfigError otherwise.
[[nodiscard]] Split parse_split(std::string_view name);

struct Problem {
  std::string kind;     // of the problem within the task: "coding", "dose", ...
  std::string prompt;   // what the user says
  std::string working;  // one short line that leads to the answer
  std::string answer;
  std::string rules;       // of this kind, in words: what one must know to solve it
  std::string parameters;  // what the answer depends on; decides the bucket

  /// The assistant's turn: the working, and a last line "Answer: ...".
  [[nodiscard]] std::string response() const { return working + "\nAnswer: " + answer; }
};

struct Task {
  std::string name;
  std::string description;
  Problem (*draw)(uint64_t seed, uint64_t index, uint32_t attempt);  // of any kind and bucket
};

/// All tasks, in a fixed order.
[[nodiscard]] const std::vector<Task>& tasks();

/// Throws ConfigError naming the nearest task and all tasks.
[[nodiscard]] const Task& find_task(std::string_view name);

/// `count` problems of one split, distinct as long as the task has that many.
[[nodiscard]] std::vector<Problem> generate_problems(const Task& task, int64_t count, uint64_t seed, Split split);

struct SynthesisConfig {
  std::string task;
  int64_t count = 1000;
  uint64_t seed = 0;
  Split split = Split::kTrain;
  int64_t few_shot = 0;  // worked examples of the kind, with its rules, put before each problem

  void validate() const;  // throws ConfigError
};

/// One JSON object a problem: messages (the last one the assistant's), prompt, answer, task, kind. Without newlines.
[[nodiscard]] std::vector<std::string> synthesize(const SynthesisConfig& config);

/// The answer in a model's text: the last \boxed{...}, else the last <answer>...</answer>, else what follows the last
/// "Answer:", else the last line. Without surrounding blanks, quotes and a final full stop.
[[nodiscard]] std::string extract_answer(std::string_view text);

/// Whether `text` ends in `answer`: equal up to case and blanks, or as numbers with equal units.
[[nodiscard]] bool answer_is_correct(std::string_view text, std::string_view answer);

}  // namespace tessera::data
