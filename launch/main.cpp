// tessera: argv, signals, MPI and exit codes. Everything else is in the subcommands and the libraries.
#include <malloc.h>
#include <sched.h>
#include <unistd.h>

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <thread>

#include "core/error.h"
#include "core/log.h"
#include "core/text.h"
#include "launch/app.h"
#include "parallel/mpi_communicator.h"
#include "rl/rewards/helper.h"
#ifdef TESSERA_CUDA
#include "parallel/nccl.h"
#endif

namespace tessera::launch {
namespace {

constexpr const char* kVersion = "0.1.0";
std::atomic<bool> stop_requested{false};

/// SIGUSR1 (and Ctrl-C, when no mpirun turns it into SIGUSR1) asks the run to save and stop; a second Ctrl-C ends it. The
/// signals are blocked in every thread and taken by one that waits for them, so that none interrupts a product: generated
/// kernels may keep data where a signal's frame would go.
void take_signals(bool interrupt) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGUSR1);
  if (interrupt) sigaddset(&signals, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([signals] {
    for (int signal = 0; ::sigwait(&signals, &signal) == 0;) {
      if (signal == SIGINT && stop_requested) {
        std::signal(SIGINT, SIG_DFL);
        ::pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
        std::raise(SIGINT);
      }
      stop_requested = true;
    }
  }).detach();
}

int environment_number(const char* name, int fallback) {
  const char* value = std::getenv(name);
  return value == nullptr ? fallback : std::atoi(value);
}

bool under_mpirun() {
  return std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr || std::getenv("PMI_SIZE") != nullptr || std::getenv("PMIX_RANK") != nullptr;
}

/// Without OMP_NUM_THREADS, local ranks that are not bound to cores of their own would each use them all.
int num_threads() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  int cores = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) cores = CPU_COUNT(&allowed);
  const bool bound = cores < static_cast<int>(std::thread::hardware_concurrency());
  const int local_ranks = environment_number("OMPI_COMM_WORLD_LOCAL_SIZE", 1);
  const int fallback = bound ? cores : std::max(1, cores / std::max(1, local_ranks));
  return std::max(1, environment_number("OMP_NUM_THREADS", fallback));
}

/// libgomp lets a thread that waits spin for milliseconds; when another program takes a core, a run with two threads gets
/// ten times slower. It reads its settings when it is loaded, so the program starts itself anew with a short spin.
void wait_politely(char** argv) {
  if (num_threads() == 1 || std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return;
  ::setenv("GOMP_SPINCOUNT", "10000", 1);
  ::execv(self.c_str(), argv);  // comes back only if it failed: then all goes on as it is
}

/// Large tensors come and go every step; returning them to the kernel each time would cost page faults.
void keep_freed_memory() {
  ::mallopt(M_MMAP_THRESHOLD, 1 << 30);
  ::mallopt(M_TRIM_THRESHOLD, 1 << 30);
}

struct Cli {
  CLI::App app{"Tessera trains and adapts DeepSeek-style reasoning models.", "tessera"};
  bool quiet = false;
  std::vector<std::string> plugins;
  std::vector<std::pair<CLI::App*, Command>> commands;

  Cli() {
    app.set_version_flag("--version", std::string("tessera ") + kVersion);
    app.require_subcommand(1);
    app.fallthrough();
    app.add_flag("--quiet", quiet, "warnings and errors only");
    app.add_option("--plugin", plugins, "a library that registers devices of another vendor");
    app.get_formatter()->column_width(34);
    add("train", "run a recipe", train_command);
    add("prepare", "tokenise sources into an HDF5 token store", prepare_command);
    add("plan", "what a rank of a run would send, without running it", plan_command);
    add("inspect", "show data with its trained tokens, a checkpoint, or a model", inspect_command);
    add("tokenize", "JSONL on standard input to token ids on standard output", tokenize_command);
    add("train-tokenizer", "learn a byte-level BPE from text", train_tokenizer_command);
    add("score", "log-probability of each token", score_command);
    add("generate", "complete prompts", generate_command);
    add("eval", "accuracy and perplexity on problems with answers", eval_command);
    add("export", "a checkpoint as a Hugging Face folder", export_command);
    add("synthesize", "problems of a sector with verifiable answers", synthesize_command);
    add("doctor", "what this machine has, what is missing, how to mend it", doctor_command);
  }
  void add(const char* name, const char* description, Command (*make)(CLI::App&)) {
    CLI::App* sub = app.add_subcommand(name, description);
    commands.emplace_back(sub, make(*sub));
  }
  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& [sub, command] : commands) names.push_back(sub->get_name());
    return names;
  }
  [[nodiscard]] const Command& chosen() const {
    for (const auto& [sub, command] : commands)
      if (sub->parsed()) return command;
    throw InternalError("no subcommand was parsed");
  }
};

/// What the user is told: LibTorch's errors without their stack traces.
std::string message_of(const std::exception& error) {
  if (const auto* torch_error = dynamic_cast<const c10::Error*>(&error)) {
    const std::string message = torch_error->what_without_backtrace();
    const size_t memory = message.find("you tried to allocate");
    return memory == std::string::npos ? message : "out of memory: " + message.substr(memory);
  }
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return "out of memory";
  return error.what();
}

void complain(const std::exception& error, int rank, int world_size) {
  const std::string prefix = world_size > 1 ? "rank " + std::to_string(rank) + ": " : "";
  std::fprintf(stderr, "tessera: %serror: %s\n", prefix.c_str(), message_of(error).c_str());
  std::fflush(stderr);
}

void register_devices(const std::vector<std::string>& plugins, parallel::DeviceRegistry& devices) {
#ifdef TESSERA_CUDA
  devices.add(parallel::make_cuda_kind());
#endif
  for (const auto& plugin : plugins) devices.load_plugin(plugin);
  for (const auto& name : devices.names())
    for (const auto& [variable, value] : devices.find(name).environment) ::setenv(variable.c_str(), value.c_str(), 0);
}

int run(const Cli& cli, parallel::Communicator& world, const std::function<void(double)>& set_timeout) {
  configure_logging({.rank = world.rank(), .world_size = world.size(), .quiet = cli.quiet});
  parallel::DeviceRegistry devices;
  register_devices(cli.plugins, devices);
  App app{world, cli.quiet, [] { return stop_requested.load(); }, set_timeout, devices};
  cli.chosen()(app);
  return 0;
}

int run_alone(const Cli& cli) {
  try {
    return run(cli, *parallel::make_self_communicator(), [](double) {});
  } catch (const std::exception& error) {
    complain(error, 0, 1);
    return 1;
  }
}

int run_with_mpi(const Cli& cli) {
  parallel::MpiContext context;
  try {
    const auto world = context.world();
    return run(cli, *world, [&](double seconds) { context.set_timeout(seconds); });
  } catch (const std::exception& error) {
    // A mistake in the recipe throws on every rank: rank 0 gets the first word, the others speak if it has nothing to say.
    if (context.rank() > 0) std::this_thread::sleep_for(std::chrono::milliseconds(500));
    complain(error, context.rank(), context.size());
    context.abort(1);
  }
}

int main(int argc, char** argv) {
  // Hidden: the processes in which rewards run foreign code. They must not have threads, MPI or our signals.
  if (const auto status = rl::run_helper(argc, argv)) return *status;
  wait_politely(argv);
  take_signals(!under_mpirun());
  std::signal(SIGPIPE, SIG_IGN);
  Cli cli;
  try {
    cli.app.parse(argc, argv);
  } catch (const CLI::RequiredError& error) {
    const auto names = cli.names();
    char** word = std::find_if(argv + 1, argv + argc, [](const char* argument) { return argument[0] != '-'; });
    const bool is_command = word != argv + argc && std::find(names.begin(), names.end(), *word) != names.end();
    if (environment_number("OMPI_COMM_WORLD_RANK", 0) > 0) return error.get_exit_code();
    if (word == argv + argc || is_command) return cli.app.exit(error);
    const std::string near = nearest_name(*word, names);
    std::fprintf(stderr, "tessera: error: there is no command '%s'; %s\n", *word,
                 near.empty() ? "tessera --help lists them" : ("did you mean '" + near + "'?").c_str());
    return error.get_exit_code();
  } catch (const CLI::ParseError& error) {
    if (environment_number("OMPI_COMM_WORLD_RANK", 0) > 0) return error.get_exit_code();
    return cli.app.exit(error);
  }
  keep_freed_memory();
  at::set_num_threads(num_threads());
  return under_mpirun() ? run_with_mpi(cli) : run_alone(cli);
}

}  // namespace
}  // namespace tessera::launch

int main(int argc, char** argv) {
  try {
    return tessera::launch::main(argc, argv);
  } catch (const std::exception& error) {
    tessera::launch::complain(error, 0, 1);
    return 1;
  }
}
