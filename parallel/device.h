// Kinds of devices and the c10d backends that join them. The built-in kinds and those of plug-ins are registered alike; nothing
// else here knows what a device is.
//
// A plug-in is a shared library for another vendor's LibTorch extension (a PrivateUse1 device and a c10d backend). It exports
//
//   extern "C" void tessera_register_devices(tessera::parallel::DeviceRegistry& registry);
//
// and is loaded by `tessera --plugin LIB.so`.
#pragma once

#include <c10/core/Device.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "parallel/communicator.h"

namespace tessera::kernels {
class Accelerator;
}

namespace tessera::parallel {

struct DeviceKind {
  std::string name;  // "cuda"
  c10::DeviceType type = c10::DeviceType::CPU;
  /// Work runs on streams: a c10d Work's wait() orders the current stream behind it and returns at once.
  bool streams = false;
  std::function<int()> count;                   // on this host
  std::function<void(int index)> make_current;  // for this thread
  std::function<c10::intrusive_ptr<c10d::Backend>(c10::intrusive_ptr<c10d::Store> store, int rank, int size, std::chrono::milliseconds timeout)>
      make_backend;
  /// What the backend knows about operations that hang (a flight recorder's text); may be empty.
  std::function<std::string()> diagnosis;
  /// Its kernels, which must outlive the job; null: tensors can travel there, but not train.
  const kernels::Accelerator* accelerator = nullptr;
  /// Variables that its libraries want in the environment, unless the user has set them; launch/ sets them.
  std::vector<std::pair<std::string, std::string>> environment;
};

class DeviceRegistry {
 public:
  DeviceRegistry() = default;
  virtual ~DeviceRegistry() = default;
  DeviceRegistry(const DeviceRegistry&) = delete;
  DeviceRegistry& operator=(const DeviceRegistry&) = delete;

  /// Throws ConfigError when the name is taken or something is missing. Virtual, so that plug-ins need none of our symbols.
  virtual void add(DeviceKind kind);
  /// Loads a plug-in and lets it register. Throws ConfigError naming the file and what to do.
  void load_plugin(const std::string& path);
  /// Throws ConfigError naming those that are known.
  [[nodiscard]] const DeviceKind& find(const std::string& name) const;
  [[nodiscard]] std::vector<std::string> names() const;

 private:
  std::map<std::string, DeviceKind> kinds_;
};

/// The device of this rank: the n-th rank of a host has the n-th device. Throws ConfigError when a host has more ranks.
[[nodiscard]] c10::Device device_of(const DeviceKind& kind, const Communicator& world);

}  // namespace tessera::parallel
