// Moving token rows to their experts and back: a gather into rows sorted by expert, and the weighted sum over each token's
// experts.
//
// Sums are made by one thread along a binary tree: the range of keys (experts, or ranks that hold equal runs of them) is halved
// again and again. The sum over an aligned half of the experts is then the same number wherever it is made, so that experts
// on 2, 4, 8, ... ranks give the bits of experts on one.
//
// Legend: T tokens, D model dim, K choices a token, N rows: T K, or fewer where some choices have no row.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "kernels/row_groups.h"

namespace tessera::kernels {

class Accelerator;

/// Which row belongs to which (token, choice), both ways.
struct RowMap {
  int64_t tokens = 0, choices = 0;
  std::vector<int64_t> row_of;    // [T K]: row of choice k of token t at t K + k; -1: this choice has no row here
  std::vector<int64_t> slot_of;   // [N]: t K + k of a row
  std::vector<int32_t> keys;      // [T K]: the expert or rank that a choice is of; distinct within a token
  int32_t num_keys = 0;
  /// The same on a device, for its kernels; where it was made there, the vectors are empty.
  at::Tensor device_row_of, device_slot_of;  // [T, K] int32, [N] int32

  [[nodiscard]] int64_t rows() const { return device_slot_of.defined() ? device_slot_of.numel() : static_cast<int64_t>(slot_of.size()); }
  /// Copies the vectors to a device.
  void copy_to(const Accelerator& device);
};
using RowMapPtr = std::shared_ptr<const RowMap>;

/// x: [T, D]. Returns rows [N, D].
at::Tensor gather_rows(const at::Tensor& x, const RowMapPtr& map);

/// base + sum over k of weights[t, k] rows[row_of(t, k)]. rows: [N, D], weights: [T, K], base: [T, D]. Returns [T, D].
at::Tensor combine_rows(const at::Tensor& rows, const at::Tensor& weights, const at::Tensor& base, const RowMapPtr& map);

/// The same with all weights 1.
at::Tensor sum_rows(const at::Tensor& rows, const at::Tensor& base, const RowMapPtr& map);

}  // namespace tessera::kernels
