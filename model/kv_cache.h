// Keys and values of sequences being generated: one slot a sequence, grown as they lengthen.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace tessera::model {

class KvCache final {
 public:
  /// `row` floats a token and layer: keys of all key/value heads, then values.
  KvCache(int64_t layers, int64_t slots, int64_t row);

  [[nodiscard]] int64_t length(int64_t slot) const { return lengths_[static_cast<size_t>(slot)]; }
  [[nodiscard]] int64_t capacity() const { return capacity_; }
  void set_length(int64_t slot, int64_t length) { lengths_[static_cast<size_t>(slot)] = length; }
  /// Makes room for `length` tokens in every slot, keeping what is stored.
  void reserve(int64_t length);
  [[nodiscard]] float* row(int64_t layer, int64_t slot, int64_t position);
  [[nodiscard]] int64_t row_floats() const { return row_; }
  [[nodiscard]] int64_t bytes() const;

 private:
  std::vector<at::Tensor> layers_;  // [slots, capacity, row]
  std::vector<int64_t> lengths_;
  int64_t slots_, row_, capacity_ = 0;
};

}  // namespace tessera::model
