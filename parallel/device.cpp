#include "parallel/device.h"

#include <dlfcn.h>

#include <exception>

#include "core/error.h"
#include "core/text.h"

namespace tessera::parallel {

void DeviceRegistry::add(DeviceKind kind) {
  if (kind.name.empty() || !kind.count || !kind.make_current || !kind.make_backend)
    throw ConfigError("the device kind '" + kind.name + "' lacks a name, count, make_current or make_backend; mend the plug-in that registers it");
  const std::string name = kind.name;
  if (!kinds_.emplace(name, std::move(kind)).second)
    throw ConfigError("the device kind '" + name + "' is registered twice; load one plug-in for it");
}

void DeviceRegistry::load_plugin(const std::string& path) {
  // With a slash dlopen does not search the system's folders.
  const std::string file = path.find('/') == std::string::npos ? "./" + path : path;
  // It stays loaded: torch keeps what it registers there.
  void* library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw ConfigError(detail::concat("--plugin ", path, " cannot be loaded: ", ::dlerror()));
  using Register = void (*)(DeviceRegistry&);
  const auto function = reinterpret_cast<Register>(::dlsym(library, "tessera_register_devices"));
  if (function == nullptr)
    throw ConfigError("--plugin " + path + " does not export tessera_register_devices (extern \"C\"); see parallel/device.h");
  try {
    function(*this);
  } catch (const std::exception& error) {
    throw ConfigError("--plugin " + path + " failed to register its devices: " + error.what());
  }
}

const DeviceKind& DeviceRegistry::find(const std::string& name) const {
  const auto found = kinds_.find(name);
  if (found == kinds_.end())
    throw ConfigError(detail::concat("no device kind is called '", name, "'; known: ", kinds_.empty() ? "none" : join(names()),
                                     "; build with TESSERA_CUDA=ON for cuda, or load a plug-in with --plugin"));
  return found->second;
}

std::vector<std::string> DeviceRegistry::names() const {
  std::vector<std::string> names;
  for (const auto& [name, kind] : kinds_) names.push_back(name);
  return names;
}

c10::Device device_of(const DeviceKind& kind, const Communicator& world) {
  const std::vector<int> nodes = world.nodes();
  const auto rank = static_cast<size_t>(world.rank());
  int local = 0;
  for (size_t r = 0; r < rank; ++r) local += nodes[r] == nodes[rank];
  const int count = kind.count();
  if (local >= count)
    throw ConfigError(detail::concat("rank ", rank, " is number ", local + 1, " of its host, which has ", count, " device(s) of kind ", kind.name,
                                     "; start at most ", count, " ranks a host"));
  return {kind.type, static_cast<c10::DeviceIndex>(local)};
}

}  // namespace tessera::parallel
