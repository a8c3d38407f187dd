// libFuzzer entry: a safetensors file that may be anything. What is accepted must lie inside the file.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "checkpoint/safetensors.h"
#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto header = tessera::checkpoint::SafetensorsHeader::parse({reinterpret_cast<const char*>(data), size}, "fuzz");
    if (header.data_offset > size) std::abort();
    for (const auto& [name, info] : header.tensors) {
      if (info.begin > info.end || info.end > size - header.data_offset) std::abort();
      size_t bytes = c10::elementSize(info.dtype);
      for (int64_t dim : info.shape) bytes *= static_cast<size_t>(dim);
      if (bytes != info.end - info.begin) std::abort();
    }
  } catch (const tessera::Error&) {
  }
  return 0;
}
