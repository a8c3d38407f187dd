// Runs a program that nobody has read: in namespaces of its own (user, process, mount, network,
// IPC, host name), on a root folder in memory that shows the host's /usr read-only and a small
// /tmp, as a user without rights, under resource limits and a system call filter.
// docs/guides/rewards.md says what that keeps out and what it does not.
//
// Processes: the caller forks a *warden*, which makes the namespaces and forks their process 1, the
// *init*, which forks the program and reaps. When the program ends, so does the init, and the
// kernel kills all that the program left behind; it also does when the warden or the caller dies.
// Nothing runs on when run_in_sandbox returns.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tessera::rl {

struct SandboxLimits {
  double deadline_seconds = 10;  // on the clock; also of each process's computing time, rounded up
  int64_t memory_mb = 512;       // address space of each process
  int64_t processes = 16;        // and threads, at a time
  int64_t file_mb = 16;          // of all files together, and of each
};

struct SandboxJob {
  std::vector<std::string>
      command;        // the program is looked up in the sandbox's /usr/local/bin:/usr/bin:/bin
  std::string file;   // content of kSandboxFile
  std::string input;  // standard input
  SandboxLimits limits;
  size_t max_output_bytes = 1 << 20;  // of standard output and error each
};

/// Where the sandbox has SandboxJob::file.
inline constexpr const char* kSandboxFile = "/tmp/solution";

struct SandboxOutcome {
  enum class End { kExited, kKilled, kDeadline, kTooMuchOutput, kNoSandbox };
  End end = End::kNoSandbox;
  int status = 0;      // exit status, or signal
  std::string output;  // standard output
  std::string errors;  // standard error
  std::string
      reason;  // of kNoSandbox: which step the kernel refused, or why the program cannot be run
};

/// Forks: the calling process must have one thread only, and becomes the reaper of orphans below
/// it. Ignores SIGPIPE.
[[nodiscard]] SandboxOutcome run_in_sandbox(const SandboxJob& job);

}  // namespace tessera::rl
