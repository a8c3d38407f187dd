// NVIDIA GPUs, joined by NCCL through LibTorch's ProcessGroupNCCL.
#pragma once

#include "parallel/device.h"

namespace tessera::parallel {

/// The kind "cuda". What it hangs on is reported with NCCL's flight recorder.
[[nodiscard]] DeviceKind make_cuda_kind();

}  // namespace tessera::parallel
