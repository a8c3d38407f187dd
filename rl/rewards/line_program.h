// A program that answers JSON lines: one object with an "id" a line in, one with the same "id" a
// line out, in any order. It is kept running between batches, and killed and started anew when it
// dies, hangs or writes what is no answer.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rl/rewards/child_process.h"
#include "rl/rewards/reward.h"

namespace tessera::rl {

class LineProgram final {
 public:
  struct Answer {
    nlohmann::json value;  // the object the program wrote; null when there is none
    std::string error;     // why there is none
  };

  /// `title` opens messages: "rl.rewards: program". Throws ConfigError when the program cannot be
  /// started.
  LineProgram(std::vector<std::string> command, std::string title);

  /// Writes each request with an id of its own and waits for all answers, `deadline_seconds` at
  /// most. What is not answered has an error. Requests that a dying program left behind go to its
  /// successor, the one it probably died of last. Throws ConfigError, with the end of what the
  /// program wrote to standard error, when three programs in a row have died or been killed without
  /// a single answer.
  [[nodiscard]] std::vector<Answer> exchange(std::vector<nlohmann::json> requests,
                                             double deadline_seconds);

 private:
  struct Batch;
  enum class Ended { kComplete, kDied, kHung, kBabbled };

  void start();
  [[nodiscard]] Ended run(Batch& batch);
  /// Sorts one line from the program into the batch. False: it is no answer.
  bool take_line(Batch& batch, std::string_view line);
  bool take_output(Batch& batch);
  void take_errors();
  /// Ends the program and says how it ended, with its last words.
  std::string stop(Ended ended, double deadline_seconds);

  std::vector<std::string> command_;
  std::string title_;
  std::unique_ptr<ChildProcess> child_;
  std::string unread_;      // the beginning of a line
  std::string last_words_;  // the end of standard error
  std::string babble_;      // the line that was no answer
  int64_t next_id_ = 0;
  bool answered_ = false;  // the running program, something
  int silent_starts_ = 0;  // in a row, of programs that got requests and answered nothing
};

/// Results from answers: "reward", or the program's own "error". Values that are no finite number
/// fail.
[[nodiscard]] std::vector<RewardResult> to_results(const std::vector<LineProgram::Answer>& answers);

/// A sample's request: prompt, completion, sample, tokens, stopped, thinking_open.
[[nodiscard]] nlohmann::json to_request(const RewardInput& input);

}  // namespace tessera::rl
