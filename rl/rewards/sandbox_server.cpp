#include "rl/rewards/sandbox_server.h"

#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <deque>
#include <map>

#include "core/error.h"
#include "rl/rewards/answer.h"
#include "rl/rewards/sandbox_inside.h"

namespace tessera::rl {
namespace {

constexpr size_t kOutputRoom = 1 << 16;
constexpr size_t kMaxDetail = 600;

/// Without blanks at the ends of lines and blank lines at both ends.
std::string normal_output(std::string_view text) {
  std::string out;
  for (size_t line = 0; line <= text.size();) {
    const size_t end = std::min(text.find('\n', line), text.size());
    std::string_view content = text.substr(line, end - line);
    content = content.substr(0, content.find_last_not_of(" \t\r") + 1);
    out.append(content);
    out += '\n';
    line = end + 1;
  }
  return std::string(trim(out));
}

std::string last_line(std::string_view text) {
  text = trim(text);
  const size_t line = text.rfind('\n');
  return std::string(trim(line == std::string_view::npos ? text : text.substr(line + 1)));
}

std::string tail(std::string_view text) {
  text = trim(text);
  return std::string(text.size() > kMaxDetail ? text.substr(text.size() - kMaxDetail) : text);
}

/// What was wrong with a run; empty when nothing was.
std::string mistake(const SandboxOutcome& outcome, const nlohmann::json& run,
                    const std::string& marker) {
  using End = SandboxOutcome::End;
  if (outcome.end == End::kDeadline) return "did not end in time";
  if (outcome.end == End::kTooMuchOutput) return "wrote too much";
  if (outcome.end == End::kKilled) return detail::concat("was killed by signal ", outcome.status);
  if (outcome.status != 0)
    return detail::concat("exited with status ", outcome.status, ": ", tail(outcome.errors));
  if (run.contains("output") &&
      normal_output(outcome.output) != normal_output(run["output"].get<std::string>()))
    return "printed something else: " + tail(outcome.output);
  if (!marker.empty() && last_line(outcome.output) != marker) return "ended before its tests did";
  return "";
}

SandboxJob job_of(const nlohmann::json& request) {
  SandboxJob job;
  job.command = request.at("command").get<std::vector<std::string>>();
  job.file = request.at("code").get<std::string>();
  job.limits = {.deadline_seconds = request.at("deadline_seconds").get<double>(),
                .memory_mb = request.at("memory_mb").get<int64_t>(),
                .processes = request.at("processes").get<int64_t>(),
                .file_mb = request.at("file_mb").get<int64_t>()};
  return job;
}

/// Answers are shorter than a pipe's atomic write, so those of several children do not mix.
void write_answer(const nlohmann::json& answer) {
  const std::string line =
      answer.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
  TESSERA_CHECK(line.size() <= 4096, "an answer of ", line.size(), " bytes");
  [[maybe_unused]] const ssize_t ignored = ::write(STDOUT_FILENO, line.data(), line.size());
}

[[noreturn]] void work(const nlohmann::json& request, pid_t server) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != server) ::_exit(1);
  nlohmann::json answer;
  try {
    answer = run_code_request(request);
  } catch (const std::exception& error) {
    answer["error"] = error.what();
  }
  for (const char* key : {"detail", "error"})
    if (answer.contains(key)) answer[key] = answer[key].get<std::string>().substr(0, kMaxDetail);
  answer["id"] = request.at("id");
  write_answer(answer);
  ::_exit(0);
}

/// Reads requests and hands each to a child, a few at a time.
class Server {
 public:
  Server() {
    sigset_t ended;
    sigemptyset(&ended);
    sigaddset(&ended, SIGCHLD);
    ::sigprocmask(SIG_BLOCK, &ended, nullptr);
    child_ended_ = Descriptor(::signalfd(-1, &ended, SFD_CLOEXEC | SFD_NONBLOCK));
    require_call(child_ended_.open(), "signalfd");
  }

  int run() {
    for (;;) {
      while (!waiting_.empty() && static_cast<int>(working_.size()) < num_sandboxes()) start();
      pollfd events[] = {{STDIN_FILENO, POLLIN, 0}, {child_ended_.get(), POLLIN, 0}};
      if (::poll(events, 2, -1) < 0) continue;
      if (events[1].revents != 0) reap();
      if (events[0].revents != 0 && !take_input()) return 0;
    }
  }

 private:
  bool take_input() {
    char buffer[1 << 16];
    const ssize_t count = ::read(STDIN_FILENO, buffer, sizeof buffer);
    if (count <= 0) return count < 0 && errno == EINTR;
    unread_.append(buffer, static_cast<size_t>(count));
    size_t begin = 0;
    // Only the new bytes can hold the end of a line.
    for (size_t end = unread_.find('\n', unread_.size() - static_cast<size_t>(count));
         end != std::string::npos; end = unread_.find('\n', begin)) {
      waiting_.push_back(
          nlohmann::json::parse(std::string_view(unread_).substr(begin, end - begin)));
      begin = end + 1;
    }
    unread_.erase(0, begin);
    return true;
  }

  void start() {
    const pid_t server = ::getpid(), child = ::fork();
    require_call(child >= 0, "fork");
    if (child == 0) work(waiting_.front(), server);
    working_[child] = waiting_.front().at("id");
    waiting_.pop_front();
  }

  void reap() {
    signalfd_siginfo ignored;
    while (::read(child_ended_.get(), &ignored, sizeof ignored) > 0) {
    }
    int status = 0;
    for (pid_t child = 0; (child = ::waitpid(-1, &status, WNOHANG)) > 0;) {
      const auto found = working_.find(child);
      if (found == working_.end()) continue;
      if (status != 0)
        write_answer({{"id", found->second}, {"error", "the sandbox's supervisor was killed"}});
      working_.erase(found);
    }
  }

  Descriptor child_ended_;
  std::string unread_;
  std::deque<nlohmann::json> waiting_;
  std::map<pid_t, nlohmann::json> working_;  // ids
};

}  // namespace

int num_sandboxes() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  return ::sched_getaffinity(0, sizeof allowed, &allowed) == 0
             ? std::clamp(CPU_COUNT(&allowed), 1, 8)
             : 1;
}

nlohmann::json run_code_request(const nlohmann::json& request) {
  SandboxJob job = job_of(request);
  const auto& runs = request.at("runs");
  const auto marker = request.at("marker").get<std::string>();
  if (runs.empty()) {
    const SandboxOutcome outcome = run_in_sandbox(job);
    if (outcome.end == SandboxOutcome::End::kNoSandbox) return {{"error", outcome.reason}};
    return {{"reward", 1}};
  }
  for (size_t i = 0; i < runs.size(); ++i) {
    const std::string expected = runs[i].value("output", "");
    job.input = runs[i].at("input").get<std::string>();
    job.max_output_bytes = expected.size() + kOutputRoom;
    const SandboxOutcome outcome = run_in_sandbox(job);
    if (outcome.end == SandboxOutcome::End::kNoSandbox)
      return {{"error", "no sandbox: " + outcome.reason}};
    const std::string wrong = mistake(outcome, runs[i], marker);
    if (!wrong.empty())
      return {{"reward", 0},
              {"detail", detail::concat("run ", i + 1, " of ", runs.size(), " ", wrong)}};
  }
  return {{"reward", 1}};
}

int run_sandbox_server() {
  std::signal(SIGPIPE, SIG_IGN);
  return Server().run();  // children die with this process
}

}  // namespace tessera::rl
