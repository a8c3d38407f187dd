// Counts the bytes of CPU tensors that are alive: what an operation keeps for its backward pass.
#pragma once

#include <c10/core/Allocator.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace tessera::kernels {

class LiveBytes final : public c10::Allocator {
 public:
  static LiveBytes& installed() {
    static LiveBytes* instance = [] {
      auto* made = new LiveBytes;  // outlives all tensors
      c10::SetAllocator(c10::kCPU, made, 1);
      return made;
    }();
    return *instance;
  }
  [[nodiscard]] int64_t now() const { return bytes(); }

  c10::DataPtr allocate(size_t size) override {
    auto* block = static_cast<char*>(std::aligned_alloc(kHeader, (size + 2 * kHeader - 1) / kHeader * kHeader));
    std::memcpy(block, &size, sizeof size);
    bytes() += static_cast<int64_t>(size);
    return {block + kHeader, block, &release, c10::Device(c10::kCPU)};
  }
  void copy_data(void* to, const void* from, size_t count) const override { std::memcpy(to, from, count); }

 private:
  static constexpr size_t kHeader = 64;
  static std::atomic<int64_t>& bytes() {
    static std::atomic<int64_t> live{0};
    return live;
  }
  static void release(void* block) {
    size_t size = 0;
    std::memcpy(&size, block, sizeof size);
    bytes() -= static_cast<int64_t>(size);
    std::free(block);
  }
};

}  // namespace tessera::kernels
