// A plug-in that brings two kinds of devices, both the CPU: "tensors" with tensor operations for kernels, "idle" with none.
#include <stdexcept>

#include "kernels/tensor_accelerator.h"
#include "parallel/device.h"

extern "C" void tessera_register_devices(tessera::parallel::DeviceRegistry& registry) {
  using namespace tessera;
  static const kernels::TensorAccelerator operations(at::kCPU);
  for (const bool idle : {false, true}) {
    parallel::DeviceKind kind;
    kind.name = idle ? "idle" : "tensors";
    kind.type = c10::DeviceType::CPU;
    kind.count = [] { return 64; };
    kind.make_current = [](int) {};
    kind.make_backend = [](c10::intrusive_ptr<c10d::Store>, int, int, std::chrono::milliseconds) -> c10::intrusive_ptr<c10d::Backend> {
      throw std::runtime_error("tensors on the host travel over MPI");
    };
    if (!idle) kind.accelerator = &operations;
    registry.add(std::move(kind));
  }
}
