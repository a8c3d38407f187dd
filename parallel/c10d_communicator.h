// Communication of tensors on devices through any c10d backend (ProcessGroupNCCL, a plug-in's). A control communicator over the
// same ranks, which MPI brings up, moves what lies on the CPU, splits groups and announces long phases.
//
// Streams: an operation is enqueued behind what its thread's current stream holds when it is issued, and runs on the backend's
// own stream. wait() orders the current stream behind it and returns at once; the host sees the data when that stream is
// synchronised. On a device without streams wait() blocks until the data is there.
//
// Deadlines: a thread watches what has been issued. When an operation is not complete in time, or has failed, it takes down what
// the backend's flight recorder says and aborts the backends of all groups, which ends kernels that hang; the next call on any
// of the groups throws CommError with axis, operation, number, site and bytes. It cannot tell who is missing: NCCL does not.
#pragma once

#include <memory>

#include "parallel/communicator.h"
#include "parallel/device.h"

namespace tessera::parallel {

struct C10dOptions {
  double timeout_seconds = 600;
};

/// Collective over `control`, which must outlive it, as must `kind`: makes the backends' store over TCP, at an address of the
/// first rank's host, and the world's backend. Throws CommError when a rank cannot reach the store.
[[nodiscard]] std::unique_ptr<Communicator> make_c10d_communicator(Communicator& control, const DeviceKind& kind, const C10dOptions& options);

}  // namespace tessera::parallel
