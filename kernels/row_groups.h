// Where the rows of each expert begin, in rows sorted by expert.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

namespace tessera::kernels {

class Accelerator;

/// E + 1 numbers that ascend from 0 to N: on the host, or where they were counted on a device, there.
struct RowGroups {
  std::vector<int64_t> offsets;
  at::Tensor device_offsets;  // [E + 1] int32

  RowGroups() = default;
  RowGroups(std::vector<int64_t> host) : offsets(std::move(host)) {}  // NOLINT(google-explicit-constructor): a list of offsets is one

  RowGroups(std::initializer_list<int64_t> host) : offsets(host) {}

  [[nodiscard]] int64_t experts() const {
    return device_offsets.defined() ? device_offsets.numel() - 1 : static_cast<int64_t>(offsets.size()) - 1;
  }
  void copy_to(const Accelerator& device);
};

}  // namespace tessera::kernels
