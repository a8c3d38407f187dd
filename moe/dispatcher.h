// Brings token rows to their experts and back. A dispatch is begun, and its exchanges run beside other work of the layer:
//
//   auto dispatch = dispatcher.dispatch(x, routing);      rows set out
//   ... work that needs no expert ...
//   const Arrived arrived = dispatch->arrive();
//   dispatch->send_back(experts.forward(arrived.rows, arrived.offsets));
//   ... more of it ...
//   y = dispatch->combine(base);
//
// Rows reach an expert in the order (rank they come from, token). A token travels once to each rank that holds some of its
// experts, and that rank returns one weighted sum.
//
// Legend: T tokens, D model dim, K choices a token, N rows, E experts of this rank.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "moe/router.h"
#include "parallel/communicator.h"

namespace tessera::moe {

struct Arrived {
  at::Tensor rows;               // [N, D], sorted by expert
  std::vector<int64_t> offsets;  // [E + 1]: expert e of this rank has the rows [offsets[e], offsets[e + 1])
};

/// One pass of a layer's tokens to the experts and back.
class Dispatch {
 public:
  virtual ~Dispatch() = default;
  virtual Arrived arrive() = 0;
  /// outputs: [N, D] in arrived order.
  virtual void send_back(const at::Tensor& outputs) = 0;
  /// base [T, D] plus each token's weighted sum of its experts' outputs.
  virtual at::Tensor combine(const at::Tensor& base) = 0;
};

class Dispatcher {
 public:
  virtual ~Dispatcher() = default;
  /// x: [T, D]. With experts on several ranks collective, also where T is 0.
  [[nodiscard]] virtual std::unique_ptr<Dispatch> dispatch(const at::Tensor& x, const Routing& routing) const = 0;
  /// Experts of this rank: [first, first + count).
  [[nodiscard]] virtual int64_t first_expert() const { return 0; }
  [[nodiscard]] virtual int64_t num_local_experts() const = 0;
};

/// All experts on this rank: the reference.
[[nodiscard]] std::unique_ptr<Dispatcher> make_local_dispatcher(int64_t num_experts);

/// Experts dealt to the ranks of `ep` in equal runs. `ep` must outlive what is dispatched. Throws ConfigError when they
/// cannot be dealt equally.
[[nodiscard]] std::unique_ptr<Dispatcher> make_all_to_all_dispatcher(int64_t num_experts, parallel::Communicator& ep);

}  // namespace tessera::moe
