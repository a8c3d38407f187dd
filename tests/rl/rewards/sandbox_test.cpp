#include "rl/rewards/sandbox.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "core/error.h"
#include "test_support.h"

namespace tessera::rl {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

std::string fenced(const std::string& program) {
  return "Here it is:\n```python\n" + program + "\n```\n";
}

nlohmann::json prints(const std::string& output, const std::string& input = "") {
  return {{"tests", {{{"input", input}, {"output", output}}}}};
}

std::string text_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// Processes of sandboxes, whoever made them: those in another process namespace that run the
/// solution's file.
int num_sandboxed() {
  std::error_code error;
  const auto own = fs::read_symlink("/proc/self/ns/pid");
  int found = 0;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    if (!std::isdigit(static_cast<unsigned char>(entry.path().filename().string()[0]))) continue;
    const auto space = fs::read_symlink(entry.path() / "ns/pid", error);
    if (!error && space != own &&
        text_of(entry.path() / "cmdline").find("/tmp/solution") != std::string::npos)
      ++found;
  }
  return found;
}

/// The newest child of `parent` that is a server of sandboxes or one of its supervisors.
pid_t find_child(pid_t of) {
  pid_t found = 0;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename().string();
    if (!std::isdigit(static_cast<unsigned char>(name[0]))) continue;
    std::istringstream stat(text_of(entry.path() / "stat"));
    std::string word;
    int parent = 0;
    stat >> word >> word >> word >> parent;
    if (parent == of && text_of(entry.path() / "cmdline").find("sandbox-run") != std::string::npos)
      found = std::max(found, std::stoi(name));
  }
  return found;
}

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Scores an abusive program and, behind it, a good one, which must not notice. Returns the
/// abuser's result.
RewardResult contained(const RewardConfig& config, const nlohmann::json& sample,
                       const std::string& program) {
  auto reward = make_reward(config);
  const auto first = score_one(*reward, sample, fenced(program));
  EXPECT_EQ(num_sandboxed(), 0) << "left running";
  const auto good = score_one(*reward, prints("6", "2 3"),
                              fenced("a, b = map(int, input().split())\nprint(a * b)"));
  EXPECT_FALSE(good.failed) << good.error;
  EXPECT_EQ(good.value, 1);
  EXPECT_EQ(num_sandboxed(), 0);
  return first;
}

const RewardConfig kCode{.name = "code", .deadline_seconds = 10};

TEST(CodeReward, RunsTheLastBlockAgainstTheTests) {
  auto reward = make_reward(kCode);
  const nlohmann::json sample = {
      {"tests", {{{"input", "2 3\n"}, {"output", "5\n"}}, {{"input", "10 -4"}, {"output", "6"}}}}};
  const auto value = [&](const std::string& completion) {
    const auto result = score_one(*reward, sample, completion);
    EXPECT_FALSE(result.failed) << result.error;
    return result.value;
  };
  EXPECT_EQ(value(fenced("a, b = map(int, input().split())\nprint(a + b)")), 1);
  EXPECT_EQ(
      value(fenced("print(0)") + fenced("print(sum(map(int, input().split())), end='  \\n\\n')")),
      1)
      << "the last one, blanks trimmed";
  EXPECT_EQ(value(fenced("print(sum(map(int, input().split())))") + fenced("print(0)")), 0);
  EXPECT_EQ(value("print(sum(map(int, input().split())))"), 1) << "the whole answer";
  EXPECT_EQ(value("<think>\n```\nprint(5)\n```\n</think>print(sum(map(int, input().split())))"), 1);
  EXPECT_EQ(value("<think>print(sum(map(int, input().split())))"), 0) << "still thinking";
  EXPECT_EQ(value(fenced("print(5)")), 0) << "the second test";
  EXPECT_EQ(value(fenced("print(sum(map(int, input().split())))\nraise SystemExit(1)")), 0)
      << "its exit status";
  EXPECT_EQ(value(fenced("this is no Python")), 0);
  EXPECT_EQ(value(fenced("")), 0);
  EXPECT_EQ(value(fenced("print(sum(map(int, input().split())), 'x')")), 0);
}

TEST(CodeReward, RunsTestCodeBehindTheAnswer) {
  auto reward = make_reward(kCode);
  const nlohmann::json sample = {{"test_code", "assert double(4) == 8\nassert double(-1) == -2"}};
  EXPECT_EQ(score_one(*reward, sample, fenced("def double(x):\n  return 2 * x")).value, 1);
  EXPECT_EQ(score_one(*reward, sample, fenced("def double(x):\n  return x + 4")).value, 0);
  EXPECT_EQ(score_one(*reward, sample, fenced("import sys\nsys.exit(0)")).value, 0)
      << "ends before the tests";
  EXPECT_EQ(score_one(*reward, sample, fenced("import os\nos._exit(0)")).value, 0);
  const nlohmann::json both = {{"test_code", "assert double(4) == 8"},
                               {"tests", {{{"input", ""}, {"output", "ready"}}}}};
  EXPECT_EQ(
      score_one(*reward, both, fenced("def double(x):\n  return 2 * x\nprint('ready')")).value, 1);
  EXPECT_EQ(score_one(*reward, both, fenced("def double(x):\n  return 2 * x")).value, 0)
      << "the tests";
  EXPECT_EQ(score_one(*reward, both, fenced("print('ready')")).value, 0) << "the test code";
}

TEST(CodeReward, SamplesWithoutTestsFail) {
  auto reward = make_reward(kCode);
  EXPECT_THAT(score_one(*reward, {{"answer", "5"}}, "x").error,
              HasSubstr("neither 'tests' nor 'test_code'"));
  EXPECT_THAT(score_one(*reward, {{"tests", {1, 2}}}, "x").error,
              HasSubstr("must be a list of {\"input\", \"output\"}"));
  EXPECT_TRUE(score_one(*reward, {{"tests", nlohmann::json::array()}}, "x").failed);
}

TEST(CodeReward, EachSampleOfABatchGetsItsOwnResult) {
  auto reward = make_reward(kCode);
  std::vector<nlohmann::json> samples;
  std::vector<std::string> completions;
  for (int i = 0; i < 12; ++i) {
    samples.push_back(i == 5 ? nlohmann::json{{"none", 1}} : prints(std::to_string(i)));
    completions.push_back(fenced("import time\ntime.sleep(0.0" + std::to_string(9 - i % 10) +
                                 ")\nprint(" + std::to_string(i % 3 == 0 ? i : -1) + ")"));
  }
  std::vector<RewardInput> inputs;
  for (size_t i = 0; i < samples.size(); ++i)
    inputs.push_back({.sample = &samples[i], .completion = completions[i]});
  const auto results = reward->score(inputs);
  ASSERT_EQ(results.size(), 12u);
  for (size_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(results[i].failed, i == 5) << i << results[i].error;
    EXPECT_EQ(results[i].value, i % 3 == 0 ? 1 : 0) << i;
  }
}

TEST(CodeReward, OtherInterpretersAndCommands) {
  EXPECT_EQ(score_one({.name = "code", .command = {"/bin/sh"}}, prints("3", "1 2"),
                      "read a b; echo $((a + b))")
                .value,
            1);
  EXPECT_EQ(
      score_one({.name = "code", .command = {"sh", "-c", "tr a b < {file}"}}, prints("bbc"), "abc")
          .value,
      1);
  EXPECT_THAT([] { (void)make_reward({.name = "code", .command = {"no-such-interpreter"}}); },
              testing::ThrowsMessage<ConfigError>(
                  HasSubstr("'no-such-interpreter' cannot be run in the sandbox")));
  EXPECT_THAT(
      [] { (void)make_reward({.name = "code", .command = {"/root/.pyenv/shims/python3"}}); },
      testing::Throws<ConfigError>());
}

TEST(CodeReward, LargeInputsAndOutputsPass) {
  auto reward = make_reward(kCode);
  const std::string large(3 << 20, 'z');
  EXPECT_EQ(score_one(*reward, prints(large, large), fenced("print(input())")).value, 1);
  EXPECT_EQ(score_one(*reward, prints("x", large), fenced("print('x')")).value, 1)
      << "input that nobody reads";
}

// What a program tries and is refused; it prints "refused" when every attempt has failed.
struct Attempt {
  const char* name;
  const char* program;
};
class SandboxAttempt : public testing::TestWithParam<Attempt> {};
TEST_P(SandboxAttempt, IsRefused) {
  const std::string program =
      std::string(
          "import os, socket, sys, ctypes, signal, time\n"
          "failures = []\n"
          "def refused(f, *types):\n"
          "  try: result = f()\n"
          "  except (OSError, *types): return\n"
          "  failures.append(repr(result))\n"
          "libc = ctypes.CDLL(None, use_errno=True)\n"
          "def call(number, *arguments):\n"
          "  if libc.syscall(number, *arguments) != -1: failures.append('syscall %d' % number)\n"
          "  elif ctypes.get_errno() not in (1, 38): failures.append('syscall %d: errno %d' % "
          "(number, ctypes.get_errno()))\n") +
      GetParam().program + "\nprint('refused' if not failures else failures)\n";
  const auto result = contained(kCode, prints("refused"), program);
  EXPECT_FALSE(result.failed) << result.error;
  EXPECT_EQ(result.value, 1) << GetParam().name;
}

INSTANTIATE_TEST_SUITE_P(
    Sandbox, SandboxAttempt,
    testing::Values(
        Attempt{"HostFiles",
                "for p in ['/etc/shadow', '/etc/hostname', '/root/.bashrc', '/home', '/var/log', "
                "'/work', '/proc/1/environ', '/proc/self/status', '/sys/kernel']:\n"
                "  refused(lambda: os.stat(p))\n"
                "if open('/etc/passwd').read().count('\\n') != 1: failures.append('passwd')\n"
                "if set(os.listdir('/')) - {'usr', 'bin', 'sbin', 'lib', 'lib32', 'lib64', 'etc', "
                "'dev', 'tmp'}: failures.append(os.listdir('/'))\n"
                "if os.listdir('/..') != os.listdir('/'): failures.append('the host is still "
                "mounted')"},
        Attempt{"WritingElsewhere",
                "for p in ['/x', '/usr/x', '/usr/bin/x', '/etc/x', '/dev/x', '/bin/x']:\n  "
                "refused(lambda: open(p, 'w'))\n"
                "refused(lambda: os.remove('/usr/bin/python3'))\nrefused(lambda: "
                "os.chmod('/usr/bin/env', 0o777))\n"
                "refused(lambda: os.mkdir('/data'))\n"
                "for p in ['/', '/usr', '/usr/bin']:\n  if not os.statvfs(p).f_flag & os.ST_RDONLY "
                "or not os.statvfs(p).f_flag & os.ST_NOSUID: failures.append(p)\n"
                "open('/tmp/fine', 'w').write('x')\nopen('/dev/shm/fine', 'w').write('x')"},
        Attempt{"Devices",
                "refused(lambda: os.mknod('/tmp/d', 0o600 | 0o020000, os.makedev(1, "
                "1)))\nrefused(lambda: os.stat('/dev/mem'))\n"
                "refused(lambda: os.stat('/dev/tty'))\nopen('/dev/null', "
                "'w').write('x')\nopen('/dev/urandom', 'rb').read(1)"},
        Attempt{"Network",
                "for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, "
                "socket.AF_NETLINK, socket.AF_PACKET, 40, 38):\n"
                "  for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW): "
                "refused(lambda: socket.socket(family, kind))\n"
                "import urllib.request\nrefused(lambda: "
                "urllib.request.urlopen('http://127.0.0.1:80', timeout=1))\n"
                "refused(lambda: socket.create_connection(('1.1.1.1', 53), timeout=1))"},
        Attempt{"BecomingRoot",
                "refused(lambda: os.setuid(0))\nrefused(lambda: os.setgid(0))\nrefused(lambda: "
                "os.setgroups([0]))\nrefused(lambda: os.chroot('/tmp'))\n"
                "if os.getuid() != 1000 or os.geteuid() != 1000 or os.getgid() != 1000: "
                "failures.append(os.getuid())\n"
                "if libc.prctl(39, 0, 0, 0, 0) != 1: failures.append('no_new_privs')\n"
                "if any(libc.prctl(23, c, 0, 0, 0) == 1 for c in range(41)): "
                "failures.append('capabilities')"},
        Attempt{"SystemCalls",
                "call(101, 0, 0, 0, 0)\n"                        // ptrace
                "call(165, b'x', b'/tmp', b'tmpfs', 0, None)\n"  // mount
                "call(166, b'/tmp', 2)\n"                        // umount2
                "call(272, 0x10000000)\n"                        // unshare a user namespace
                "call(56, 0x10000000 | 17, 0, 0, 0, 0)\n"        // clone with one
                "call(435, None, 0)\n"                           // clone3
                "call(308, 3, 0)\n"                              // setns
                "call(321, 0, None, 0)\n"                        // bpf
                "call(250, 0, 0)\n"                              // keyctl
                "call(425, 8, None)\n"                           // io_uring_setup
                "call(319, b'x', 0)\n"                           // memfd_create
                "call(29, 0, 4096, 0o1600)\n"                    // shmget
                "call(310, 1, None, 0, None, 0, 0)\n"            // process_vm_readv
                "call(298, None, 0, -1, -1, 0)\n"                // perf_event_open
                "call(323, 0)\n"                                 // userfaultfd
                "call(434 + 1000, 0)\n"                          // one that does not exist yet
                "call(0x40000000 + 39)\n"                        // getpid of x32
                "call(16, 0, 0x5412, b'x')"},                    // ioctl TIOCSTI
        Attempt{
            "OtherProcesses",
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "for s in (signal.SIGTERM, signal.SIGKILL): os.kill(1, s)\n"  // the init does not care
            "refused(lambda: os.kill(-1, signal.SIGKILL))\n"              // there is nobody else
            "time.sleep(0.05)\nif os.getppid() != 1: failures.append(os.getppid())\n"
            "for pid in range(3, 3000): refused(lambda: os.kill(pid, 0))"},
        Attempt{"LimitsAreFinal",
                "import resource\n"
                "for limit in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, "
                "resource.RLIMIT_CPU, resource.RLIMIT_NOFILE):\n"
                "  refused(lambda: resource.setrlimit(limit, (-1, -1)), ValueError)\n"
                "if resource.getrlimit(resource.RLIMIT_CORE) != (1, 1): failures.append('core')"},
        Attempt{
            "Descriptors",
            "for fd in range(3, 64): refused(lambda: os.fstat(fd))\nif os.listdir('/tmp') != "
            "['solution']: failures.append(os.listdir('/tmp'))\n"
            "if set(os.environ) - {'PATH', 'HOME', 'TMPDIR', 'LANG', 'PYTHONDONTWRITEBYTECODE', "
            "'PYTHONHASHSEED', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'LC_CTYPE'}: "
            "failures.append(dict(os.environ))\nif os.uname().nodename != 'sandbox': "
            "failures.append(os.uname())"}),
    [](const auto& info) { return info.param.name; });

TEST(Sandbox, EndlessLoopsEndAtTheDeadline) {
  RewardConfig config = kCode;
  config.deadline_seconds = 1;
  RewardResult result;
  const double seconds =
      seconds_of([&] { result = contained(config, prints("x"), "while True: pass"); });
  EXPECT_FALSE(result.failed) << result.error;
  EXPECT_EQ(result.value, 0);
  EXPECT_GE(seconds, 1);
  EXPECT_LT(seconds, 6);
  const double sleeping = seconds_of([&] {
    result = contained(config, prints("x"), "import time\nprint('x', flush=True)\ntime.sleep(600)");
  });
  EXPECT_EQ(result.value, 0) << "the right output too late";
  EXPECT_LT(sleeping, 6);
}

TEST(Sandbox, EndlessOutputIsCut) {
  for (const char* stream : {"stdout", "stderr"}) {
    RewardResult result;
    const double seconds = seconds_of([&] {
      result =
          contained(kCode, prints("x"),
                    std::string("import sys\nwhile True: sys.") + stream + ".write('y' * 100000)");
    });
    EXPECT_FALSE(result.failed) << result.error;
    EXPECT_EQ(result.value, 0);
    EXPECT_LT(seconds, 8) << "before the deadline of 10 s";
  }
}

TEST(Sandbox, ForkBombsAreBounded) {
  RewardConfig config = kCode;
  config.deadline_seconds = 2;
  EXPECT_EQ(contained(config, prints("x"),
                      "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass")
                .value,
            0);
  // How many there can be: the program and 15 more.
  const char* count =
      "import os, time\nn = 1\nfor i in range(100):\n  try:\n    if os.fork() == 0:\n      "
      "time.sleep(60)\n      os._exit(0)\n    n += 1\n  except OSError: pass\nprint(n)";
  EXPECT_EQ(contained(kCode, prints("16"), count).value, 1);
  EXPECT_EQ(contained({.name = "code", .processes = 4}, prints("4"), count).value, 1);
}

TEST(Sandbox, MemoryAndFilesAreBounded) {
  EXPECT_EQ(contained({.name = "code", .memory_mb = 200}, prints("enough"),
                      "try:\n  x = b'x' * (400 << 20)\nexcept MemoryError: print('enough')")
                .value,
            1);
  EXPECT_EQ(contained({.name = "code", .memory_mb = 600}, prints("fine"),
                      "x = b'x' * (400 << 20)\nprint('fine')")
                .value,
            1);
  EXPECT_EQ(contained(kCode, prints("x"), "x = []\nwhile True: x.append(b'x' * (1 << 20))").value,
            0);
  const char* fill =
      "n = 0\ntry:\n  for i in range(100):\n    with open('/tmp/%d' % i, 'wb') as f:\n      "
      "f.write(b'x' * (1 << 20))\n    n += 1\nexcept OSError: pass\nprint(n)";
  EXPECT_EQ(contained(kCode, prints("15"), fill).value, 1) << "16 MB with the solution's page";
  EXPECT_EQ(contained({.name = "code", .file_mb = 4}, prints("3"), fill).value, 1);
  EXPECT_EQ(
      contained(kCode, prints("x"), "n = 0\nwhile True:\n  open('/tmp/f%d' % n, 'w')\n  n += 1")
          .value,
      0)
      << "many empty files";
  EXPECT_EQ(contained(kCode, prints("refused"),
                      "try:\n  with open('/tmp/big', 'wb') as f: f.truncate(1 << 40)\nexcept "
                      "OSError: print('refused')")
                .value,
            1);
}

TEST(Sandbox, DaemonsDoNotOutliveTheirProgram) {
  RewardResult result;
  const double seconds = seconds_of([&] {
    result =
        contained(kCode, prints("done"),
                  "import os, time\nfor i in range(5):\n  if os.fork() == 0:\n    os.setsid()\n    "
                  "if os.fork() == 0:\n      time.sleep(600)\n    os._exit(0)\nprint('done')");
  });
  EXPECT_EQ(result.value, 1) << "leaving daemons behind is no crime";
  EXPECT_LT(seconds, 5) << "and nobody waits for them";
}

TEST(Sandbox, KillingAllReachesNobodyOutside) {
  const pid_t canary = ::fork();
  if (canary == 0) {
    ::pause();
    ::_exit(0);
  }
  const auto result =
      contained(kCode, prints("x"),
                "import os, signal\nif os.fork() == 0:\n  import time\n  "
                "time.sleep(60)\nos.kill(-1, signal.SIGKILL)\nos.kill(0, signal.SIGKILL)");
  EXPECT_FALSE(result.failed) << result.error;
  EXPECT_EQ(result.value, 0);
  EXPECT_EQ(::waitpid(canary, nullptr, WNOHANG), 0) << "still alive";
  ::kill(canary, SIGKILL);
  ::waitpid(canary, nullptr, 0);
}

TEST(Sandbox, AListenerOnThisMachineIsOutOfReach) {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(listener, 1), 0);
  socklen_t size = sizeof address;
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  const std::string port = std::to_string(ntohs(address.sin_port));
  const auto result = contained(kCode, prints("refused"),
                                "import socket\ntry: socket.create_connection(('127.0.0.1', " +
                                    port + "), 1)\nexcept OSError: print('refused')");
  EXPECT_EQ(result.value, 1);
  EXPECT_EQ(::accept(listener, nullptr, nullptr), -1);
  ::close(listener);
}

TEST(Sandbox, RunsDoNotSeeEachOther) {
  auto reward = make_reward(kCode);
  const nlohmann::json sample = {
      {"tests",
       {{{"input", ""}, {"output", "['solution']"}}, {{"input", ""}, {"output", "['solution']"}}}}};
  EXPECT_EQ(
      score_one(*reward, sample, "import os\nprint(os.listdir('/tmp'))\nopen('/tmp/left', 'w')")
          .value,
      1);
}

TEST(Sandbox, ItsEndEndsTheProgramsInIt) {
  auto reward = make_reward(kCode);
  std::vector<RewardResult> results;
  std::thread scoring(
      [&] { results = score_all(*reward, prints("x"), {"import time\ntime.sleep(600)"}); });
  for (int i = 0; i < 500 && num_sandboxed() == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_GE(num_sandboxed(), 1) << "the check for what is left running sees what runs";
  const pid_t server = find_child(::getpid());
  ASSERT_GT(server, 0);
  ::kill(server, SIGKILL);
  scoring.join();
  EXPECT_TRUE(results.at(0).failed);
  for (int i = 0; i < 200 && num_sandboxed() > 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(num_sandboxed(), 0);
  EXPECT_EQ(score_one(*reward, prints("5"), "print(5)").value, 1) << "a new server";
}

TEST(Sandbox, AKilledSupervisorFailsItsSampleAtOnce) {
  auto reward = make_reward(kCode);
  std::vector<RewardResult> results;
  const double seconds = seconds_of([&] {
    std::thread scoring(
        [&] { results = score_all(*reward, prints("x"), {"import time\ntime.sleep(600)"}); });
    for (int i = 0; i < 500 && num_sandboxed() == 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    const pid_t supervisor = find_child(find_child(::getpid()));
    EXPECT_GT(supervisor, 0);
    if (supervisor > 0) ::kill(supervisor, SIGKILL);
    scoring.join();
  });
  EXPECT_LT(seconds, 8) << "not the deadline";
  EXPECT_THAT(results.at(0).error, HasSubstr("supervisor was killed"));
  for (int i = 0; i < 200 && num_sandboxed() > 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(num_sandboxed(), 0);
  EXPECT_EQ(score_one(*reward, prints("5"), "print(5)").value, 1);
}

/// Runs `work` in a child that `prepare` has changed; true when both returned true.
bool in_child(const std::function<bool()>& prepare, const std::function<bool()>& work) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(prepare() && work() ? 0 : 1);
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(Sandbox, OrdinaryUsersMakeItToo) {
  if (::geteuid() != 0)
    GTEST_SKIP()
        << "SKIPPED: needs root to become an ordinary user; the other tests have run as one";
  EXPECT_TRUE(in_child(
      [] { return ::setgroups(0, nullptr) == 0 && ::setgid(65534) == 0 && ::setuid(65534) == 0; },
      [] {
        auto reward = make_reward({.name = "code", .deadline_seconds = 3});
        const bool good =
            score_one(*reward, prints("1000"), "import os\nprint(os.getuid())").value == 1;
        const auto bomb =
            score_one(*reward, prints("x"),
                      "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass");
        const bool again = score_one(*reward, prints("5"), "print(5)").value == 1;
        return good && !bomb.failed && bomb.value == 0 && again && num_sandboxed() == 0;
      }));
}

TEST(Sandbox, WhereTheKernelRefusesItNothingRuns) {
  // A user namespace that may have none below it stands for a kernel without them.
  const bool nested = in_child([] { return ::unshare(CLONE_NEWUSER) == 0; }, [] { return true; });
  if (!nested) GTEST_SKIP() << "SKIPPED: no user namespaces here";
  EXPECT_TRUE(in_child(
      [] {
        const uid_t user = ::geteuid();
        if (::unshare(CLONE_NEWUSER) != 0) return false;
        std::ofstream("/proc/self/setgroups") << "deny";
        std::ofstream("/proc/self/uid_map") << "1000 " << user << " 1";
        std::ofstream("/proc/sys/user/max_user_namespaces") << 0 << std::flush;
        return text_of("/proc/sys/user/max_user_namespaces") == "0\n";
      },
      [] {
        try {
          (void)make_reward({.name = "code"});
        } catch (const ConfigError& error) {
          const std::string message = error.what();
          return message.find("rl.rewards: code: foreign programs are run in a sandbox only") ==
                     0 &&
                 message.find("a user namespace: No space") != std::string::npos &&
                 message.find("sysctl user.max_user_namespaces") != std::string::npos;
        }
        return false;
      }));
}

}  // namespace
}  // namespace tessera::rl
