#include <sys/statvfs.h>
#include <unistd.h>

#include <ATen/Parallel.h>
#include <ATen/ops/rand.h>

#include <chrono>
#include <fstream>
#include <iostream>
#include <sstream>
#include <thread>

#include "core/error.h"
#include "core/text.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/onednn_gemm.h"
#include "kernels/gemm.h"
#include "launch/app.h"
#include "rl/rewards/reward.h"

namespace tessera::launch {

namespace {

void line(const char* state, const std::string& text) { std::cout << "[" << state << "] " << text << "\n"; }

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string text; std::getline(info, text);)
    if (text.rfind("model name", 0) == 0) return text.substr(text.find(':') + 2);
  return "unknown processor";
}

bool on_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  if (path == nullptr) return false;
  std::istringstream folders(path);
  for (std::string folder; std::getline(folders, folder, ':');)
    if (::access((folder + "/" + program).c_str(), X_OK) == 0) return true;
  return false;
}

void check_machine() {
  line("ok", detail::concat(cpu_name(), ", ", std::thread::hardware_concurrency(), " cores, matrix products by ", kernels::gemm_library(), ", kernels for ",
                            std::string(kernels::kernel_table().name).substr(4), ", ", at::get_num_threads(), " threads in this process"));
  const int64_t memory = int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGE_SIZE);
  line(memory < (int64_t{8} << 30) ? "warn" : "ok", format_bytes(memory) + " of memory");
  struct statvfs disk {};
  if (::statvfs(".", &disk) == 0) {
    const auto free = static_cast<int64_t>(disk.f_bavail * disk.f_frsize);
    line(free < (int64_t{10} << 30) ? "warn" : "ok",
         format_bytes(free) + " free in this folder" + (free < (int64_t{10} << 30) ? "; a checkpoint of a 135 M model takes 1.6 GiB: free some space" : ""));
  }
}

void check_tools() {
  if (on_path("mpirun")) {
    line("ok", "mpirun is on the path");
  } else {
    line("missing", "mpirun: install Open MPI (Debian: apt-get install openmpi-bin) to train on more than one process");
  }
  if (!kernels::onednn_available())
    line("missing", "oneDNN (libdnnl.so.2): on processors that are not Intel's it multiplies faster (Debian: apt-get install libdnnl2)");
  const bool gpu = ::access("/dev/nvidia0", F_OK) == 0;
#ifdef TESSERA_CUDA
  line("ok", gpu ? "a GPU is there: recipes with device: cuda train on it" : "no GPU here; this build could train on one");
#else
  line("ok", gpu ? "a GPU is there; build with -DTESSERA_CUDA=ON to train on it, this build computes on the CPU" : "no GPU; computing on the CPU");
#endif
}

void check_devices(const parallel::DeviceRegistry& devices) {
  for (const auto& name : devices.names()) {
    const int count = devices.find(name).count();
    line(count > 0 ? "ok" : "missing", detail::concat("devices of kind ", name, ": ", count, count > 0 ? "" : " on this host"));
  }
}

void check_sandbox() {
  try {
    (void)rl::make_reward({.name = "code"});
    line("ok", "programs that a model has written can be run in a sandbox (reward code)");
  } catch (const ConfigError& error) {
    line("missing", error.what());
  }
}

void measure() {
  const at::Tensor a = at::rand({2048, 2048}), b = at::rand({2048, 2048});
  at::Tensor c = kernels::product(a, b);
  double best = 1e9;
  for (int i = 0; i < 5; ++i) {
    const auto start = std::chrono::steady_clock::now();
    kernels::gemm(a, kernels::Transpose::kNo, b, kernels::Transpose::kNo, c);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  char text[96];
  std::snprintf(text, sizeof text, "float32 product of 2048 x 2048: %.0f GFLOP/s", 2.0 * 2048 * 2048 * 2048 / best * 1e-9);
  line("ok", text);
}

}  // namespace

Command doctor_command(CLI::App& cli) {
  auto measured = std::make_shared<bool>(false);
  cli.add_flag("--measure", *measured, "measure the speed of matrix products too");
  return [measured](App& app) {
    if (!app.first()) return;
    check_machine();
    check_tools();
    check_devices(app.devices);
    check_sandbox();
    if (*measured) measure();
  };
}

}  // namespace tessera::launch
