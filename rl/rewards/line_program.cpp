#include "rl/rewards/line_program.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <map>

#include "core/error.h"
#include "core/text.h"
#include "data/json.h"
#include "data/unicode.h"

namespace tessera::rl {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxLine = 16 << 20;
constexpr size_t kMaxLastWords = 2000;
constexpr int kMaxRounds = 3;
constexpr int kMaxSilentStarts = 3;

std::string shortened(std::string_view text) {
  return data::replace_invalid_utf8(text.size() > 120 ? std::string(text.substr(0, 120)) + "..."
                                                      : std::string(text));
}

/// NaN and Infinity, which many languages' JSON writers let through, become null: they fail one
/// sample, not the batch.
std::optional<nlohmann::json> parse_line(std::string_view line) {
  const auto parse = [](std::string_view text) -> std::optional<nlohmann::json> {
    try {
      auto value = data::parse_large_json(text, "");
      return value.is_object() ? std::optional(std::move(value)) : std::nullopt;
    } catch (const ConfigError&) {
      return std::nullopt;
    }
  };
  if (auto value = parse(line)) return value;
  std::string plain(line);
  bool changed = false;
  for (const std::string_view word : {"-Infinity", "Infinity", "NaN"})
    for (size_t at = plain.find(word); at != std::string::npos; at = plain.find(word)) {
      plain.replace(at, word.size(), "null");
      changed = true;
    }
  return changed ? parse(plain) : std::nullopt;
}

}  // namespace

struct LineProgram::Batch {
  std::vector<nlohmann::json> requests;
  std::vector<Answer> answers;
  std::vector<size_t> waiting;      // indices not answered, in the order in which they are sent
  std::map<int64_t, size_t> by_id;  // ids of this round to indices
  Clock::time_point deadline;

  [[nodiscard]] std::string lines(int64_t& next_id) {
    std::string out;
    by_id.clear();
    for (const size_t index : waiting) {
      by_id[next_id] = index;
      requests[index]["id"] = next_id++;
      out += requests[index].dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
      out += '\n';
    }
    return out;
  }
};

LineProgram::LineProgram(std::vector<std::string> command, std::string title)
    : command_(std::move(command)), title_(std::move(title)) {
  try {
    start();
  } catch (const Error& error) {
    throw ConfigError(
        detail::concat(title_, ": ", error.what(), "; set command to a program that can be run"));
  }
}

void LineProgram::start() {
  unread_.clear();
  last_words_.clear();
  child_.reset();
  answered_ = false;
  child_ = std::make_unique<ChildProcess>(command_);
}

std::vector<LineProgram::Answer> LineProgram::exchange(std::vector<nlohmann::json> requests,
                                                       double deadline_seconds) {
  Batch batch;
  batch.requests = std::move(requests);
  batch.answers.resize(batch.requests.size());
  for (size_t i = 0; i < batch.requests.size(); ++i) batch.waiting.push_back(i);
  batch.deadline =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(
                         std::chrono::duration<double>(std::min(deadline_seconds, 1e8)));
  std::string reason;
  for (int round = 0; round < kMaxRounds && !batch.waiting.empty(); ++round) {
    // One that is left over alone is what the program died of.
    if (round > 0 && batch.waiting.size() == 1) break;
    Ended ended = Ended::kDied;
    try {
      if (!child_ || !child_->running()) start();
      ended = run(batch);
      if (ended == Ended::kComplete) return std::move(batch.answers);
      reason = stop(ended, deadline_seconds);
    } catch (const ConfigError&) {
      throw;
    } catch (const Error& error) {
      reason = error.what();
    }
    if (!answered_) ++silent_starts_;
    if (silent_starts_ >= kMaxSilentStarts)
      throw ConfigError(detail::concat(title_, ": '", join(command_, " "), "' was started ",
                                       kMaxSilentStarts,
                                       " times in a row and answered nothing: it ", reason));
    if (ended != Ended::kDied) break;
    std::rotate(batch.waiting.begin(), batch.waiting.begin() + 1, batch.waiting.end());
  }
  for (const size_t index : batch.waiting)
    batch.answers[index].error = detail::concat(title_, ": the program ", reason);
  return std::move(batch.answers);
}

LineProgram::Ended LineProgram::run(Batch& batch) {
  const std::string to_send = batch.lines(next_id_);
  size_t sent = 0;
  while (!batch.waiting.empty()) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(batch.deadline - Clock::now())
            .count();
    if (left <= 0) return Ended::kHung;
    pollfd streams[3] = {{child_->output().get(), POLLIN, 0},
                         {child_->errors().open() ? child_->errors().get() : -1, POLLIN, 0},
                         {sent < to_send.size() ? child_->input().get() : -1, POLLOUT, 0}};
    if (::poll(streams, 3, static_cast<int>(std::min<int64_t>(left, 60'000))) < 0 && errno != EINTR)
      throw Error(detail::concat("poll: ", std::strerror(errno)));
    if (streams[1].revents != 0) take_errors();
    if (streams[2].revents != 0) {
      const ssize_t written =
          write_without_signal(child_->input().get(), std::string_view(to_send).substr(sent));
      if (written > 0) sent += static_cast<size_t>(written);
      // It reads no further; it may still have answers on the way.
      if (written < 0 && errno != EAGAIN && errno != EINTR) sent = to_send.size();
    }
    if (streams[0].revents != 0 && !take_output(batch))
      return babble_.empty() ? Ended::kDied : Ended::kBabbled;
  }
  // Blank lines may follow an answer, anything else is one too many.
  return Ended::kComplete;
}

/// False at the end of the output, or behind a line that is no answer.
bool LineProgram::take_output(Batch& batch) {
  babble_.clear();
  char buffer[1 << 16];
  const ssize_t count = ::read(child_->output().get(), buffer, sizeof buffer);
  if (count < 0) return errno == EAGAIN || errno == EINTR;
  if (count == 0) return false;
  unread_.append(buffer, static_cast<size_t>(count));
  size_t begin = 0;
  // Only the new bytes can hold the end of a line.
  for (size_t end = unread_.find('\n', unread_.size() - static_cast<size_t>(count));
       end != std::string::npos; end = unread_.find('\n', begin)) {
    const std::string_view line = std::string_view(unread_).substr(begin, end - begin);
    if (line.find_first_not_of(" \t\r") != std::string_view::npos && !take_line(batch, line)) {
      babble_ = shortened(line);
      return false;
    }
    begin = end + 1;
  }
  unread_.erase(0, begin);
  if (unread_.size() <= kMaxLine) return true;
  babble_ =
      detail::concat("a line of more than ", format_bytes(kMaxLine), ": ", shortened(unread_));
  return false;
}

bool LineProgram::take_line(Batch& batch, std::string_view line) {
  auto value = parse_line(line);
  if (!value || !value->contains("id") || !(*value)["id"].is_number_integer()) return false;
  const auto found = batch.by_id.find((*value)["id"].get<int64_t>());
  if (found == batch.by_id.end()) return false;
  answered_ = true;
  silent_starts_ = 0;
  batch.answers[found->second].value = std::move(*value);
  std::erase(batch.waiting, found->second);
  batch.by_id.erase(found);
  return true;
}

void LineProgram::take_errors() {
  char buffer[4096];
  for (ssize_t count = 0; (count = ::read(child_->errors().get(), buffer, sizeof buffer)) > 0;) {
    last_words_.append(buffer, static_cast<size_t>(count));
    if (last_words_.size() > 2 * kMaxLastWords)
      last_words_.erase(0, last_words_.size() - kMaxLastWords);
    if (count < static_cast<ssize_t>(sizeof buffer)) break;
  }
}

std::string LineProgram::stop(Ended ended, double deadline_seconds) {
  // A program that has closed its output is given a moment to end: its status says more than our
  // signal.
  if (ended == Ended::kDied)
    for (int i = 0; i < 50 && child_->running(); ++i) ::usleep(2000);
  const std::string status = child_->end();
  take_errors();
  child_.reset();
  std::string reason = status;
  if (ended == Ended::kHung)
    reason = detail::concat("did not answer within deadline_seconds = ", deadline_seconds);
  if (ended == Ended::kBabbled)
    reason = detail::concat("wrote a line that is no answer: ", babble_);
  if (last_words_.size() > kMaxLastWords) last_words_.erase(0, last_words_.size() - kMaxLastWords);
  const std::string words = data::replace_invalid_utf8(last_words_);
  const size_t end = words.find_last_not_of(" \n\r\t");
  return end == std::string::npos
             ? reason
             : reason + "; its standard error ends: " + words.substr(0, end + 1);
}

std::vector<RewardResult> to_results(const std::vector<LineProgram::Answer>& answers) {
  std::vector<RewardResult> results;
  for (const auto& [value, error] : answers) {
    RewardResult result{.value = 0, .failed = true, .error = error};
    if (value.is_object() && value.contains("error")) {
      result.error =
          value["error"].is_string() ? value["error"].get<std::string>() : value["error"].dump();
    } else if (value.is_object() && value.contains("reward") && value["reward"].is_number() &&
               std::isfinite(value["reward"].get<double>())) {
      result = {.value = value["reward"].get<double>(), .failed = false, .error = ""};
    } else if (value.is_object()) {
      result.error = "the answer holds no finite \"reward\"";
    }
    results.push_back(std::move(result));
  }
  return results;
}

nlohmann::json to_request(const RewardInput& input) {
  return {{"prompt", input.prompt},
          {"completion", input.completion},
          {"sample", input.sample == nullptr ? nlohmann::json(nullptr) : *input.sample},
          {"tokens", input.tokens},
          {"stopped", input.stopped},
          {"thinking_open", input.thinking_open}};
}

}  // namespace tessera::rl
