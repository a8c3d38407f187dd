#include "rl/rewards/sandbox_server.h"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <iostream>

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
std::string mistake(const SandboxOutcome& outcome, const nlohmann::json& run, const std::string& marker) {
  using End = SandboxOutcome::End;
  if (outcome.end == End::kDeadline) return "did not end in time";
  if (outcome.end == End::kTooMuchOutput) return "wrote too much";
  if (outcome.end == End::kKilled) return detail::concat("was killed by signal ", outcome.status);
  if (outcome.status != 0) return detail::concat("exited with status ", outcome.status, ": ", tail(outcome.errors));
  if (run.contains("output") && normal_output(outcome.output) != normal_output(run["output"].get<std::string>()))
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
  const std::string line = answer.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
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

}  // namespace

int num_sandboxes() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  return ::sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? std::clamp(CPU_COUNT(&allowed), 1, 8) : 1;
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
    if (outcome.end == SandboxOutcome::End::kNoSandbox) return {{"error", "no sandbox: " + outcome.reason}};
    const std::string wrong = mistake(outcome, runs[i], marker);
    if (!wrong.empty()) return {{"reward", 0}, {"detail", detail::concat("run ", i + 1, " of ", runs.size(), " ", wrong)}};
  }
  return {{"reward", 1}};
}

int run_sandbox_server() {
  std::signal(SIGPIPE, SIG_IGN);
  const pid_t server = ::getpid();
  const int most = num_sandboxes();
  int working = 0;
  for (std::string line; std::getline(std::cin, line);) {
    const auto request = nlohmann::json::parse(line);
    while (working > 0 && ::waitpid(-1, nullptr, working >= most ? 0 : WNOHANG) > 0) --working;
    const pid_t child = ::fork();
    require_call(child >= 0, "fork");
    if (child == 0) work(request, server);
    ++working;
  }
  return 0;  // children die with this process
}

}  // namespace tessera::rl
