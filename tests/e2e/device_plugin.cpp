// A plug-in that brings kinds of devices which are all the CPU: "tensors" with tensor operations for kernels, "emulated" with CUDA kernels that a
// CPU runs in a GPU's place, "idle" with none.
#include <stdexcept>

#ifdef TESSERA_EMULATED
#include "kernels/cuda/kernel_accelerator.h"
#endif
#include "kernels/tensor_accelerator.h"
#include "parallel/device.h"

extern "C" void tessera_register_devices(tessera::parallel::DeviceRegistry& registry) {
  using namespace tessera;
  static const kernels::TensorAccelerator operations(at::kCPU);
  const auto add = [&registry](const char* name, const kernels::Accelerator* accelerator) {
    parallel::DeviceKind kind;
    kind.name = name;
    kind.type = c10::DeviceType::CPU;
    kind.count = [] { return 64; };
    kind.make_current = [](int) {};
    kind.make_backend = [](c10::intrusive_ptr<c10d::Store>, int, int, std::chrono::milliseconds) -> c10::intrusive_ptr<c10d::Backend> {
      throw std::runtime_error("tensors on the host travel over MPI");
    };
    kind.accelerator = accelerator;
    registry.add(std::move(kind));
  };
  add("tensors", &operations);
#ifdef TESSERA_EMULATED
  static const kernels::cuda::KernelAccelerator emulated(at::kCPU);
  add("emulated", &emulated);
#endif
  add("idle", nullptr);
}
