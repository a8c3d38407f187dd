#include "parallel/nccl.h"

#include <c10/cuda/CUDAFunctions.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "kernels/cuda/accelerator.h"

namespace tessera::parallel {

DeviceKind make_cuda_kind() {
  DeviceKind kind;
  kind.name = "cuda";
  kind.type = c10::DeviceType::CUDA;
  kind.streams = true;
  kind.count = [] { return static_cast<int>(c10::cuda::device_count()); };
  kind.make_current = [](int index) { c10::cuda::set_device(static_cast<c10::DeviceIndex>(index)); };
  kind.make_backend = [](c10::intrusive_ptr<c10d::Store> store, int rank, int size, std::chrono::milliseconds timeout) {
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = timeout;
    return c10::intrusive_ptr<c10d::Backend>(c10::make_intrusive<c10d::ProcessGroupNCCL>(std::move(store), rank, size, std::move(options)));
  };
  kind.diagnosis = [] { return c10d::dump_nccl_trace_json(/*includeCollectives=*/true, /*onlyActive=*/true); };
  // The process group's own watchdog would end the process before we can say why; its recorder is off by default.
  kind.accelerator = &kernels::cuda::accelerator();
  kind.environment = {{"TORCH_NCCL_ASYNC_ERROR_HANDLING", "0"}, {"TORCH_NCCL_ENABLE_MONITORING", "0"}, {"TORCH_NCCL_TRACE_BUFFER_SIZE", "2000"}};
  return kind;
}

}  // namespace tessera::parallel
