#include "rl/rewards/sandbox_inside.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstring>
#include <fstream>

#include "core/error.h"

namespace tessera::rl {
namespace {

constexpr uid_t kInsideId = 1000;
constexpr uid_t kHostId = 1'879'048'000;  // nobody's: below 2^31, above what systems give out
constexpr uid_t kNobody = 65534;

void write_file(const char* path, const std::string& text) {
  const int fd = ::open(path, O_WRONLY | O_CLOEXEC);
  const bool good =
      fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const int error = errno;
  if (fd >= 0) ::close(fd);
  errno = error;
  require_call(good, detail::concat("writing ", path));
}

/// Root becomes somebody without rights first, so that it is confined as any user is: the kernel
/// does not limit the number of root's processes, and files of root's would be the sandbox's.
void leave_root() {
  if (::geteuid() != 0) return;
  for (const uid_t id : {kHostId, kNobody}) {  // containers may know the lower ids only
    if (::setgroups(0, nullptr) != 0 || ::setresgid(id, id, id) != 0 ||
        ::setresuid(id, id, id) != 0)
      continue;
    require_call(::prctl(PR_SET_DUMPABLE, 1) == 0, "becoming dumpable");  // or /proc/self is root's
    return;
  }
  // Root of a container that has no other user is an ordinary user outside of it.
  std::ifstream map("/proc/self/uid_map");
  uint64_t inside = 0, outside = 0;
  if (map >> inside >> outside && outside == 0)
    throw Error("root cannot become another user (CAP_SETUID is missing); run as an ordinary user");
}

void enter_namespaces() {
  const uid_t user = ::geteuid();
  const gid_t group = ::getegid();
  require_call(::unshare(CLONE_NEWUSER) == 0, "a user namespace");
  write_file("/proc/self/setgroups", "deny");
  write_file("/proc/self/uid_map", detail::concat(kInsideId, " ", user, " 1"));
  write_file("/proc/self/gid_map", detail::concat(kInsideId, " ", group, " 1"));
  require_call(::unshare(CLONE_NEWNS) == 0, "a mount namespace");
  require_call(::unshare(CLONE_NEWNET) == 0, "a network namespace");
  require_call(::unshare(CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS) == 0,
               "namespaces of processes, IPC and host name");
  require_call(::sethostname("sandbox", 7) == 0, "the host name");
}

void limit(__rlimit_resource resource, uint64_t value) {
  const rlimit both{value, value};
  require_call(::setrlimit(resource, &both) == 0,
               detail::concat("resource limit ", static_cast<int>(resource)));
}

void set_limits(const SandboxLimits& limits) {
  const auto megabytes = [](int64_t mb) { return static_cast<uint64_t>(mb) << 20; };
  limit(RLIMIT_AS, megabytes(limits.memory_mb));
  limit(RLIMIT_CPU, static_cast<uint64_t>(std::ceil(limits.deadline_seconds)) + 1);
  limit(RLIMIT_FSIZE, megabytes(limits.file_mb));
  limit(RLIMIT_NOFILE, 64);
  limit(RLIMIT_CORE,
        1);  // not 0: a host that pipes core dumps into a program starts that with 0, too
  limit(RLIMIT_MEMLOCK, 0);
  limit(RLIMIT_MSGQUEUE, 0);
  limit(RLIMIT_SIGPENDING, 256);
}

/// Gives up the rights that whoever made a user namespace has in it.
void drop_capabilities() {
  for (int capability = 0; ::prctl(PR_CAPBSET_READ, capability) >= 0; ++capability)
    require_call(::prctl(PR_CAPBSET_DROP, capability) == 0, "dropping capabilities");
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const __user_cap_data_struct none[2] = {};
  require_call(::syscall(SYS_capset, &header, none) == 0, "dropping capabilities");
  require_call(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
}

void complain(const Descriptor& refusal, std::string_view text) {
  // The pipe's reader may be gone, and then nobody needs to know.
  [[maybe_unused]] const ssize_t ignored = ::write(refusal.get(), text.data(), text.size());
}

void write_solution(const std::string& content) {
  const int fd = ::open(kSandboxFile, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
  require_call(fd >= 0, "the program's file");
  for (size_t done = 0; done < content.size();) {
    const ssize_t count = ::write(fd, content.data() + done, content.size() - done);
    require_call(count > 0, "the program's file (rl.rewards: code: file_mb may be too small)");
    done += static_cast<size_t>(count);
  }
  ::close(fd);
}

[[noreturn]] void run_program(const SandboxJob& job, SandboxPipes& pipes) {
  ::setsid();
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  require_call(::dup2(pipes.input.read.get(), 0) == 0 && ::dup2(pipes.output.write.get(), 1) == 1 &&
                   ::dup2(pipes.errors.write.get(), 2) == 2,
               "standard streams");
  require_call(::chdir("/tmp") == 0, "/tmp");
  std::vector<char*> arguments;
  for (const std::string& argument : job.command)
    arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  const char* environment[] = {"PATH=/usr/local/bin:/usr/bin:/bin",
                               "HOME=/tmp",
                               "TMPDIR=/tmp",
                               "LANG=C.UTF-8",
                               "PYTHONDONTWRITEBYTECODE=1",
                               "PYTHONHASHSEED=0",
                               "OMP_NUM_THREADS=1",
                               "OPENBLAS_NUM_THREADS=1",
                               nullptr};
  // This process may hold more memory than the program may have: nothing is allocated behind the
  // limits.
  const std::string complaint = "the program '" + job.command[0] +
                                "' cannot be run in the sandbox, which shows /usr and /lib only: ";
  set_limits(job.limits);
  // All descriptors but the standard streams and the refusal, which closes by itself when the
  // program starts.
  const auto refusal = static_cast<unsigned>(pipes.refusal.write.get());
  if (refusal > 3) ::syscall(SYS_close_range, 3u, refusal - 1, 0u);
  ::syscall(SYS_close_range, refusal + 1, ~0u, 0u);
  ::environ = const_cast<char**>(environment);
  ::execvp(arguments[0], arguments.data());
  const char* reason = std::strerror(errno);
  complain(pipes.refusal.write, complaint);
  complain(pipes.refusal.write, reason);
  ::_exit(127);
}

/// Process 1 of the namespace: waits for the program; its own end is the end of all.
[[noreturn]] void run_init(const SandboxJob& job, SandboxPipes& pipes,
                           const Descriptor& warden_alive) {
  require_call(::prctl(PR_SET_PDEATHSIG, SIGKILL) == 0, "the parent's death signal");
  pollfd warden{warden_alive.get(), POLLIN, 0};
  if (::poll(&warden, 1, 0) != 0)
    ::_exit(1);  // the warden was dead before the signal was asked for
  drop_capabilities();
  ::prctl(PR_SET_DUMPABLE, 0);
  install_call_filter();
  // The warden and this process count too.
  limit(RLIMIT_NPROC, static_cast<uint64_t>(job.limits.processes) + 2);
  const pid_t program = ::fork();
  require_call(program >= 0, "fork");
  if (program == 0) {
    try {
      run_program(job, pipes);
    } catch (const std::exception& error) {
      complain(pipes.refusal.write, error.what());
      ::_exit(127);
    }
  }
  for (Descriptor* mine :
       {&pipes.input.read, &pipes.output.write, &pipes.errors.write, &pipes.refusal.write})
    mine->close();
  for (;;) {
    int status = 0;
    const pid_t ended = ::waitpid(-1, &status, 0);
    if (ended != program && (ended > 0 || errno == EINTR)) continue;
    if (ended == program)
      complain(pipes.status.write, {reinterpret_cast<const char*>(&status), sizeof status});
    ::_exit(0);
  }
}

void make_sandbox(const SandboxJob& job, SandboxPipes& pipes, int caller) {
  leave_root();
  enter_namespaces();
  // After the change of user, which takes it back.
  require_call(::prctl(PR_SET_PDEATHSIG, SIGKILL) == 0, "the parent's death signal");
  if (::getppid() != caller) ::_exit(1);
  make_sandbox_root(job.limits.file_mb);
  write_solution(job.file);
  Pipe alive = make_pipe();  // its writing end is the warden's alone
  const pid_t init = ::fork();
  require_call(init >= 0, "fork");
  if (init == 0) {
    alive.write.close();
    run_init(job, pipes, alive.read);
  }
  alive.read.close();
  pipes = {};  // so that the ends of the init's are the ends of all
  while (::waitpid(init, nullptr, 0) < 0 && errno == EINTR) {
  }
  ::_exit(0);
}

}  // namespace

void run_warden(const SandboxJob& job, SandboxPipes& pipes, int caller) {
  try {
    for (Descriptor* end : {&pipes.input.write, &pipes.output.read, &pipes.errors.read,
                            &pipes.status.read, &pipes.refusal.read})
      end->close();
    // When memory runs out the kernel shall take this before the training.
    try {
      write_file("/proc/self/oom_score_adj", "1000");
    } catch (const Error&) {
    }
    make_sandbox(job, pipes, caller);
  } catch (const std::exception& error) {
    complain(pipes.refusal.write, error.what());
  }
  ::_exit(1);
}

}  // namespace tessera::rl
