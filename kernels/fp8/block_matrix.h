// A frozen weight at one byte an element: E4M3 codes, with a float32 scale for each block. Matrices that are stacked in memory (q, k, v;
// experts) have blocks of their own, as files have them, wherever they begin. Its numbers are made when a product wants them, and let go.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "kernels/fp8/quantize.h"

namespace tessera::kernels {
class Accelerator;
}

namespace tessera::kernels::fp8 {

class BlockMatrix final {
 public:
  /// Memory is spent as it is filled.
  BlockMatrix(int64_t rows, int64_t columns);

  /// One matrix of the stack, from row `begin` on. In the end they cover all rows.
  void put(int64_t begin, const Quantized& matrix, Tile block);

  /// Codes and scales move to a device, which makes values of `type` from then on. All rows have been put.
  void move(c10::Device device, at::ScalarType type);

  [[nodiscard]] int64_t rows() const { return codes_.size(0); }
  [[nodiscard]] int64_t columns() const { return codes_.size(1); }
  /// float32 rows [begin, end), as codes times scales; on the calling thread, from the host's memory.
  void write_rows(int64_t begin, int64_t end, float* to) const;
  [[nodiscard]] at::Tensor values() const { return values(0, rows()); }
  [[nodiscard]] at::Tensor values(int64_t begin, int64_t end) const;

 private:
  [[nodiscard]] at::Tensor values_on(const Accelerator& device, int64_t begin, int64_t end) const;

  struct Part {
    int64_t begin, end;
    at::Tensor scales;
    Tile block;
  };
  at::Tensor codes_;
  at::ScalarType type_ = at::kFloat;
  std::vector<Part> parts_;  // in order
};

}  // namespace tessera::kernels::fp8
