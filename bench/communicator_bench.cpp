// Collectives of 64 KB to 64 MB of float32: Tessera through shared memory or through MPI, and plain blocking MPI.
//   mpirun -np 2 build/bin/communicator_bench [--mpi | --shared [BLOCK]]
// GB/s are bytes of the whole tensor by the time of a call; CPU is what the progress thread used in that time.
#include <mpi.h>
#include <torch/torch.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string_view>
#include <thread>

#include "parallel/mpi_communicator.h"

namespace {

using namespace tessera::parallel;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void measure(MpiContext& context, const char* path, const char* name, int64_t bytes, const std::function<void()>& call) {
  const int64_t repeats = std::max<int64_t>(3, std::min<int64_t>(200, (int64_t{512} << 20) / bytes));
  call();
  call();
  const double cpu = context.progress_cpu_seconds();
  const auto begin = Clock::now();
  for (int64_t i = 0; i < repeats; ++i) call();
  const double seconds = seconds_since(begin);
  if (context.rank() != 0) return;
  std::printf("%-14s %-15s %9.3f MB %9.3f ms %7.2f GB/s  progress thread %3.0f %%\n", path, name,
              static_cast<double>(bytes) / 1048576, seconds / static_cast<double>(repeats) * 1e3,
              static_cast<double>(bytes * repeats) / seconds * 1e-9,
              100 * (context.progress_cpu_seconds() - cpu) / seconds);
  std::fflush(stdout);
}

void measure_collectives(MpiContext& context, Communicator& world, const char* path, int64_t bytes) {
  const int64_t count = bytes / 4 / world.size();
  at::Tensor all = torch::ones({count * world.size()}), part = torch::ones({count});
  measure(context, path, "all_reduce", bytes, [&] { world.all_reduce(all)->wait(); all.fill_(1); });
  measure(context, path, "reduce_scatter", bytes, [&] { world.reduce_scatter(part, all)->wait(); });
  measure(context, path, "all_gather", bytes, [&] { world.all_gather(all, part)->wait(); });
}

void measure_plain(MpiContext& context, int64_t bytes) {
  const int64_t count = bytes / 4 / context.size();
  at::Tensor all = torch::ones({count * context.size()}), part = torch::ones({count});
  const int size = static_cast<int>(count);
  measure(context, "plain MPI", "all_reduce", bytes, [&] {
    MPI_Allreduce(MPI_IN_PLACE, all.data_ptr(), size * context.size(), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    all.fill_(1);
  });
  measure(context, "plain MPI", "reduce_scatter", bytes, [&] {
    MPI_Reduce_scatter_block(all.data_ptr(), part.data_ptr(), size, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  });
  measure(context, "plain MPI", "all_gather", bytes, [&] {
    MPI_Allgather(part.data_ptr(), size, MPI_FLOAT, all.data_ptr(), size, MPI_FLOAT, MPI_COMM_WORLD);
  });
}

// What a reduction costs the thread that computes: the time of fixed work alone, and while 64 MB are being reduced.
void measure_overlap(MpiContext& context, Communicator& world, const char* path) {
  const at::Tensor a = torch::ones({512, 512});
  const auto work = [&] {
    const auto begin = Clock::now();
    for (int i = 0; i < 60; ++i) torch::mm(a, a);
    return seconds_since(begin);
  };
  at::Tensor gradient = torch::ones({int64_t{16} << 20});
  work();
  world.barrier();
  const double alone = work();
  world.barrier();
  const auto begin = Clock::now();
  const auto pending = world.all_reduce(gradient);
  const double together = work();
  pending->wait();
  const double all = seconds_since(begin);
  if (context.rank() != 0) return;
  std::printf("%-14s 64 MB all_reduce behind a GEMM: GEMM alone %.0f ms, with it %.0f ms, both done after %.0f ms\n", path,
              alone * 1e3, together * 1e3, all * 1e3);
}

void measure_idle(MpiContext& context) {
  const double cpu = context.progress_cpu_seconds();
  std::this_thread::sleep_for(std::chrono::seconds(2));
  if (context.rank() == 0) {
    std::printf("idle: the progress thread uses %.2f %% of a core\n", 50 * (context.progress_cpu_seconds() - cpu));
  }
}

}  // namespace

int main(int argc, char** argv) {
  at::set_num_threads(1);
  MpiOptions options;
  options.shared_memory = argc < 2 || std::string_view(argv[1]) != "--mpi";
  if (argc > 2) options.shared_block_bytes = options.max_elements_per_call = std::atoll(argv[2]);
  MpiContext context(options);
  const auto world = context.world();
  const char* path = options.shared_memory ? "shared memory" : "through MPI";
  for (const int64_t kilobytes : {64, 1024, 4096, 16384, 65536}) {
    measure_collectives(context, *world, path, kilobytes << 10);
    world->barrier();
    measure_plain(context, kilobytes << 10);
    world->barrier();
  }
  measure_overlap(context, *world, path);
  measure_idle(context);
  world->barrier();
  return 0;
}
