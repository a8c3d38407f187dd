// Keys and values of sequences being generated, in pages of a fixed number of tokens. A sequence may begin behind another, whose
// rows it then shares: the samples of a group behind their prompt. Own rows begin in a page of their own, so that what a
// sequence reads, and in which runs, depends on the sequence alone.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "kernels/cpu/kernel_table.h"

namespace tessera::model {

class KvCache final {
 public:
  static constexpr int64_t kPageTokens = 32;

  /// `layers`: the numbers of those of this rank; `row`: numbers a token and layer, which are as `options` say.
  KvCache(const std::vector<int64_t>& layers, int64_t row, at::TensorOptions options = at::kFloat);

  /// A new sequence; with a `parent`, behind all its tokens, and the parent must not grow any more.
  int64_t open(int64_t parent = -1);
  /// Its pages are free for others once no sequence behind it needs them.
  void close(int64_t sequence);
  /// Tokens, the parent's included.
  [[nodiscard]] int64_t length(int64_t sequence) const { return at(sequence).length; }
  void set_length(int64_t sequence, int64_t length) { at(sequence).length = length; }
  /// Makes room for `length` tokens, the parent's included.
  void reserve(int64_t sequence, int64_t length);
  /// The address of a token's row, on the cache's device.
  [[nodiscard]] void* row(int64_t layer, int64_t sequence, int64_t position);
  /// Appends the runs of the first `count` tokens.
  void list_runs(int64_t layer, int64_t sequence, int64_t count, std::vector<kernels::CachedRun>& runs) const;
  [[nodiscard]] int64_t row_size() const { return row_; }
  /// Memory of all pages that were ever needed at a time.
  [[nodiscard]] int64_t bytes() const;

 private:
  struct Sequence {
    int64_t parent = -1, begin = 0;  // tokens of the parent
    int64_t length = 0, children = 0;
    bool open = false;
    std::vector<int64_t> pages;
  };
  [[nodiscard]] Sequence& at(int64_t sequence) { return sequences_[static_cast<size_t>(sequence)]; }
  [[nodiscard]] const Sequence& at(int64_t sequence) const { return sequences_[static_cast<size_t>(sequence)]; }
  [[nodiscard]] char* page(int64_t layer, int64_t page) const;
  [[nodiscard]] int64_t row_bytes() const { return row_ * static_cast<int64_t>(options_.dtype().itemsize()); }
  void release(int64_t sequence);

  std::vector<int64_t> index_;  // of a layer among those here
  int64_t layers_, row_;
  at::TensorOptions options_;
  std::vector<at::Tensor> pages_;  // [layers, kPageTokens, row] each
  std::vector<int64_t> free_pages_, free_sequences_;
  std::vector<Sequence> sequences_;
};

}  // namespace tessera::model
