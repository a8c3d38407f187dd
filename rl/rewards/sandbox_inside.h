// What happens between the fork and the program's start (sandbox.h). Steps that the kernel refuses
// throw Error.
#pragma once

#include <string>

#include "rl/rewards/child_process.h"
#include "rl/rewards/sandbox.h"

namespace tessera::rl {

/// The caller's ends are closed by whoever does not use them.
struct SandboxPipes {
  Pipe input, output, errors;
  Pipe status;   // the program's wait status; its end says that the init is gone
  Pipe refusal;  // why the program could not be started; empty when it was
};

/// The warden: never returns. `caller` is the process whose death ends the sandbox.
[[noreturn]] void run_warden(const SandboxJob& job, SandboxPipes& pipes, int caller);

/// Root folder in memory with read-only /usr, /lib.. and a writable /tmp of `file_mb`; the host's
/// is gone.
void make_sandbox_root(int64_t file_mb);

/// Refuses system calls that a program that computes does not need, with EPERM; for this process
/// and its children. Needs no_new_privs.
void install_call_filter();

/// Throws Error "what: reason" unless `good`.
void require_call(bool good, const std::string& what);

}  // namespace tessera::rl
