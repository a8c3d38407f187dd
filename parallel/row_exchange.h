// A differentiable all-to-all of rows in two halves, so that other work runs while the rows travel, forward and backward:
//
//   RowExchange exchange(ep, send_rows, receive_rows);
//   at::Tensor pending = exchange.start(rows);
//   ... work that needs no peer ...
//   at::Tensor received = exchange.finish(pending);
//
// Rows may travel in fewer bytes than float32; what is sent and what arrives is float32 all the same. In the backward pass
// finish() starts the way back of the gradients and start() waits for them; autograd runs what was recorded between the two in
// between, and what is then still to wait is spent on weight gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/parameter.h"
#include "kernels/row_format.h"
#include "parallel/communicator.h"

namespace tessera::parallel {

struct RowTransfer;

/// In what rows travel, and their gradients on the way back.
struct WayFormats {
  kernels::RowFormat there, back;
};

class RowExchange final {
 public:
  /// Rows to and from each rank of `group`, which must outlive the backward pass. `site`: for messages. `queue`, if given:
  /// weight gradients to make while the backward pass waits.
  RowExchange(Communicator& group, std::vector<int64_t> send_rows, std::vector<int64_t> receive_rows, std::string site = {},
              kernels::GradientQueue* queue = nullptr, WayFormats formats = {});

  /// rows: [sum of send_rows, D], in the order of the ranks that they go to. Collective over the group, also without rows.
  /// The result may only be given to finish().
  [[nodiscard]] at::Tensor start(const at::Tensor& rows) const;
  /// Returns [sum of receive_rows, D], in the order of the ranks that they come from.
  [[nodiscard]] at::Tensor finish(const at::Tensor& pending) const;

 private:
  std::shared_ptr<RowTransfer> transfer_;
};

}  // namespace tessera::parallel
