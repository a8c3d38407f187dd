// Communication of CPU tensors over Open MPI. MpiContext brings MPI up, owns the one progress thread of the process and
// hands out the world communicator, from which the mesh splits the others.
//
//   MpiContext context({.timeout_seconds = 600});
//   std::unique_ptr<Communicator> world = context.world();
//
// No thread but the progress thread polls MPI. It backs off from busy to yielding to sleeping, so that the threads that
// compute keep the cores, and sleeps on a condition variable when nothing is pending. It also serves a side channel on
// which a rank whose wait passed its deadline asks the others where they are.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "parallel/communicator.h"

namespace tessera::parallel {

struct MpiOptions {
  /// communication.timeout_seconds: a wait that lasts longer throws CommError.
  double timeout_seconds = 600;
  /// Elements that one MPI call moves at most; larger operations are cut up. MPI counts are 32 bits wide.
  int64_t max_elements_per_call = int64_t{1} << 19;
  /// Groups whose ranks share a node reduce and gather through shared memory instead of MPI.
  bool shared_memory = true;
  /// Bytes of one block of the shared-memory path; 0 chooses by group size.
  int64_t shared_block_bytes = 0;
};

class MpiEngine;

class MpiContext final {
 public:
  /// MPI_Init_thread(MPI_THREAD_MULTIPLE) and the progress thread. Throws CommError if MPI cannot give that level.
  explicit MpiContext(const MpiOptions& options = {});
  /// Waits for the other ranks and finalizes MPI. After a CommError, or while an exception unwinds the stack, it does
  /// neither, so that it cannot hang: call abort() then.
  ~MpiContext();
  MpiContext(const MpiContext&) = delete;
  MpiContext& operator=(const MpiContext&) = delete;

  [[nodiscard]] int rank() const;
  [[nodiscard]] int size() const;
  /// A communicator over all ranks; must not outlive the context. Collective.
  [[nodiscard]] std::unique_ptr<Communicator> world();
  /// See Communicator::announce.
  [[nodiscard]] std::unique_ptr<LongPhase> announce(std::string what);
  /// The recipe, and with it the deadline, is read after MPI came up.
  void set_timeout(double seconds);
  /// False once a CommError was thrown.
  [[nodiscard]] bool healthy() const;
  /// Ends every rank of the job; the exit code of mpirun is `exit_code`.
  [[noreturn]] void abort(int exit_code);
  /// Processor time that the progress thread has used.
  [[nodiscard]] double progress_cpu_seconds() const;

 private:
  std::shared_ptr<MpiEngine> engine_;
  int exceptions_at_start_;
};

}  // namespace tessera::parallel
