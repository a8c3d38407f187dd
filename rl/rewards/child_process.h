// A child process with pipes to its standard streams, in a process group of its own.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

namespace tessera::rl {

/// Owns a file descriptor.
class Descriptor final {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() { close(); }
  Descriptor(Descriptor&& other) noexcept : fd_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool open() const { return fd_ >= 0; }
  int release();
  void close();

 private:
  int fd_ = -1;
};

struct Pipe {
  Descriptor read, write;
};
/// Both ends close on exec. Throws Error.
[[nodiscard]] Pipe make_pipe();
void set_nonblocking(const Descriptor& descriptor);

/// Starts with posix_spawn, which does not copy this process: ranks have MPI's threads and memory.
/// The child gets no other descriptor, default signals, and none of the variables by which mpirun
/// tells a rank what it is.
class ChildProcess final {
 public:
  /// Looks the program up in PATH. Throws Error naming it and the reason.
  explicit ChildProcess(const std::vector<std::string>& command);
  /// Kills the whole group, and waits for the child.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  [[nodiscard]] const Descriptor& input() const { return input_; }    // what the child reads
  [[nodiscard]] const Descriptor& output() const { return output_; }  // all three do not block here
  [[nodiscard]] const Descriptor& errors() const { return errors_; }
  [[nodiscard]] pid_t pid() const { return pid_; }

  [[nodiscard]] bool running() const;
  /// Kills the group and says how the child ended: "exited with status 3", "was killed by signal
  /// 11".
  std::string end();

 private:
  pid_t pid_ = -1;
  Descriptor input_, output_, errors_;
};

/// write() that gives EPIPE for a closed pipe, whatever the process does about SIGPIPE.
ssize_t write_without_signal(int fd, std::string_view data);

}  // namespace tessera::rl
