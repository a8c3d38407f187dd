#include "rl/rewards/sandbox.h"

#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>

#include "core/error.h"
#include "rl/rewards/sandbox_inside.h"

namespace tessera::rl {
namespace {

using Clock = std::chrono::steady_clock;

/// Reads what there is; closes `from` at its end.
void drain(Descriptor& from, std::string& into) {
  char buffer[1 << 16];
  const ssize_t count = ::read(from.get(), buffer, sizeof buffer);
  if (count > 0) into.append(buffer, static_cast<size_t>(count));
  if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) from.close();
}

/// Moves input and output until the init is gone. What ended it, if it was the caller.
SandboxOutcome::End attend(const SandboxJob& job, SandboxPipes& pipes, SandboxOutcome& outcome,
                           std::string& status) {
  const auto deadline =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(
                         std::chrono::duration<double>(job.limits.deadline_seconds));
  size_t sent = 0;
  if (job.input.empty()) pipes.input.write.close();
  while (pipes.status.read.open() || pipes.output.read.open() || pipes.errors.read.open() ||
         pipes.refusal.read.open()) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return SandboxOutcome::End::kDeadline;
    if (outcome.output.size() > job.max_output_bytes ||
        outcome.errors.size() > job.max_output_bytes)
      return SandboxOutcome::End::kTooMuchOutput;
    pollfd ends[] = {{pipes.status.read.get(), POLLIN, 0},
                     {pipes.output.read.get(), POLLIN, 0},
                     {pipes.errors.read.get(), POLLIN, 0},
                     {pipes.refusal.read.get(), POLLIN, 0},
                     {pipes.input.write.get(), POLLOUT, 0}};
    if (::poll(ends, 5, static_cast<int>(std::min<int64_t>(left, 60'000))) < 0) continue;
    if (ends[0].revents != 0) drain(pipes.status.read, status);
    if (ends[1].revents != 0) drain(pipes.output.read, outcome.output);
    if (ends[2].revents != 0) drain(pipes.errors.read, outcome.errors);
    if (ends[3].revents != 0) drain(pipes.refusal.read, outcome.reason);
    if (ends[4].revents != 0) {
      const ssize_t count =
          ::write(pipes.input.write.get(), job.input.data() + sent, job.input.size() - sent);
      if (count > 0) sent += static_cast<size_t>(count);
      // A program need not read all of its input.
      if (sent == job.input.size() || (count < 0 && errno != EAGAIN && errno != EINTR))
        pipes.input.write.close();
    }
  }
  return SandboxOutcome::End::kExited;
}

}  // namespace

void require_call(bool good, const std::string& what) {
  if (!good) throw Error(what + ": " + std::strerror(errno));
}

SandboxOutcome run_in_sandbox(const SandboxJob& job) {
  std::signal(SIGPIPE, SIG_IGN);
  SandboxOutcome outcome;
  std::string status;
  SandboxPipes pipes{make_pipe(), make_pipe(), make_pipe(), make_pipe(), make_pipe()};
  require_call(::prctl(PR_SET_CHILD_SUBREAPER, 1) == 0, "becoming the reaper");
  const pid_t caller = ::getpid(), warden = ::fork();
  require_call(warden >= 0, "fork");
  if (warden == 0) run_warden(job, pipes, caller);
  pipes.input.read.close();
  for (Pipe* pipe : {&pipes.output, &pipes.errors, &pipes.status, &pipes.refusal}) {
    pipe->write.close();
    set_nonblocking(pipe->read);
  }
  set_nonblocking(pipes.input.write);

  outcome.end = attend(job, pipes, outcome, status);
  ::kill(warden, SIGKILL);  // with it goes the init, and with that all in its namespace
  // The init becomes our child then, and can be waited for only when its namespace is empty.
  while (::waitpid(-1, nullptr, 0) > 0 || errno == EINTR) {
  }
  if (!outcome.reason.empty()) {
    outcome.end = SandboxOutcome::End::kNoSandbox;
  } else if (outcome.end == SandboxOutcome::End::kExited) {
    int wait_status = 0;
    const bool known = status.size() == sizeof wait_status;
    if (known) std::memcpy(&wait_status, status.data(), sizeof wait_status);
    if (!known || WIFSIGNALED(wait_status)) outcome.end = SandboxOutcome::End::kKilled;
    outcome.status = !known                     ? SIGKILL
                     : WIFSIGNALED(wait_status) ? WTERMSIG(wait_status)
                                                : WEXITSTATUS(wait_status);
  }
  return outcome;
}

}  // namespace tessera::rl
