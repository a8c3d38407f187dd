#include "rl/rewards/child_process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>

#include "core/error.h"

namespace tessera::rl {
namespace {

/// The environment without mpirun's variables: a program that uses MPI itself would take itself for
/// the rank.
std::vector<char*> child_environment() {
  std::vector<char*> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    if (text.starts_with("OMPI_") || text.starts_with("PMI_") || text.starts_with("PMIX_") ||
        text.starts_with("PRTE_"))
      continue;
    variables.push_back(*variable);
  }
  variables.push_back(nullptr);
  return variables;
}

/// posix_spawn's two sets of settings.
struct SpawnSettings {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;

  SpawnSettings() {
    TESSERA_CHECK(
        posix_spawn_file_actions_init(&actions) == 0 && posix_spawnattr_init(&attributes) == 0,
        "out of memory");
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(
        &attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  ~SpawnSettings() {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;
};

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this != &other) {
    close();
    fd_ = other.release();
  }
  return *this;
}

int Descriptor::release() {
  const int fd = fd_;
  fd_ = -1;
  return fd;
}

void Descriptor::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

Pipe make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw Error(detail::concat("no pipe: ", std::strerror(errno)));
  return {Descriptor(ends[0]), Descriptor(ends[1])};
}

void set_nonblocking(const Descriptor& descriptor) {
  ::fcntl(descriptor.get(), F_SETFL, ::fcntl(descriptor.get(), F_GETFL) | O_NONBLOCK);
}

ChildProcess::ChildProcess(const std::vector<std::string>& command) {
  Pipe in = make_pipe(), out = make_pipe(), err = make_pipe();
  SpawnSettings settings;
  // By way of high numbers: a pipe's end may itself be one of 0, 1, 2 where the parent has closed
  // them.
  const int ends[3] = {in.read.get(), out.write.get(), err.write.get()};
  Descriptor copies[3];
  for (int stream = 0; stream < 3; ++stream) {
    copies[stream] = Descriptor(::fcntl(ends[stream], F_DUPFD_CLOEXEC, 10));
    if (!copies[stream].open()) throw Error(detail::concat("no pipe: ", std::strerror(errno)));
    posix_spawn_file_actions_adddup2(&settings.actions, copies[stream].get(), stream);
  }
  posix_spawn_file_actions_addclosefrom_np(&settings.actions, 3);

  std::vector<char*> arguments;
  for (const std::string& argument : command)
    arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  auto variables = child_environment();
  const int error = ::posix_spawnp(&pid_, arguments[0], &settings.actions, &settings.attributes,
                                   arguments.data(), variables.data());
  if (error != 0) {
    pid_ = -1;
    throw Error(detail::concat("cannot start '", command[0], "': ", std::strerror(error)));
  }
  input_ = std::move(in.write);
  output_ = std::move(out.read);
  errors_ = std::move(err.read);
  for (const Descriptor* end : {&input_, &output_, &errors_}) set_nonblocking(*end);
}

ChildProcess::~ChildProcess() { end(); }

bool ChildProcess::running() const {
  siginfo_t info{};
  // WNOWAIT: the child stays a zombie, so that its number, and its group's, is not given to another
  // process.
  return pid_ > 0 &&
         ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == 0;
}

std::string ChildProcess::end() {
  if (pid_ <= 0) return "has ended";
  const bool was_running = running();
  ::kill(-pid_, SIGKILL);
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  if (was_running) return "was stopped";
  if (WIFEXITED(status)) return detail::concat("exited with status ", WEXITSTATUS(status));
  return detail::concat("was killed by signal ", WTERMSIG(status));
}

ssize_t write_without_signal(int fd, std::string_view data) {
  sigset_t pipe_signal, before, pending;
  sigemptyset(&pipe_signal);
  sigaddset(&pipe_signal, SIGPIPE);
  ::pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
  ::sigpending(&pending);
  const bool was_pending = sigismember(&pending, SIGPIPE) == 1;
  const ssize_t written = ::write(fd, data.data(), data.size());
  const int error = errno;
  if (written < 0 && error == EPIPE && !was_pending) {
    const timespec at_once{};
    ::sigtimedwait(&pipe_signal, nullptr, &at_once);
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = error;
  return written;
}

}  // namespace tessera::rl
