// Brings token rows to their experts and back. A dispatch is begun, and its exchanges run beside other work of the layer:
//
//   auto dispatch = dispatcher.dispatch(x, routing);      rows set out
//   ... work that needs no expert ...
//   const Arrived arrived = dispatch->arrive();
//   dispatch->send_back(experts.forward(arrived.rows, arrived.groups));
//   ... more of it ...
//   y = dispatch->combine(base);
//
// Rows reach an expert in the order (rank they come from, token). A token travels once to each rank that holds some of its
// experts, and that rank returns one weighted sum. Between nodes it travels once to each node: to the rank there that has the
// sender's place, which hands it on and adds up what comes back.
//
// Legend: T tokens, D model dim, K choices a token, N rows, E experts of this rank.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels/permute.h"
#include "kernels/row_format.h"
#include "kernels/row_groups.h"
#include "moe/router.h"
#include "parallel/mesh.h"

namespace tessera::moe {

struct Arrived {
  at::Tensor tokens;          // [., D]
  kernels::RowMapPtr map;     // of them to rows [N, D] sorted by expert
  kernels::RowGroups groups;  // of this rank's experts
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

/// In what rows travel, in both passes: to the experts (tokens; gradients of the sums) and back (sums; gradients of tokens). Sums
/// themselves are float32. Without ranks to travel between rows are rounded all the same, so that layouts agree.
struct Wire {
  kernels::RowFormat dispatch, combine;
};

/// Tokens and where they want to go.
struct Departure {
  at::Tensor x;        // [T, D]
  at::Tensor weights;  // [T, K] float32
  at::Tensor experts;  // [T, K] int32, counted from the dispatcher's first; -1: elsewhere
  at::Tensor sources;  // [T] int32, on the host: the ranks they come from; undefined: all from one
  Wire wire = {};
  bool planned_on_host = false;  // `experts` lies on the host, wherever x does
};

class Dispatcher {
 public:
  virtual ~Dispatcher() = default;
  /// With experts on several ranks collective, also where T is 0.
  [[nodiscard]] virtual std::unique_ptr<Dispatch> dispatch(const Departure& tokens) const = 0;
  [[nodiscard]] std::unique_ptr<Dispatch> dispatch(const at::Tensor& x, const Routing& routing, const Wire& wire = {}) const {
    return dispatch({x, routing.weights, routing.experts, {}, wire});
  }
  /// Experts of this rank: [first, first + count).
  [[nodiscard]] virtual int64_t first_expert() const { return 0; }
  [[nodiscard]] virtual int64_t num_local_experts() const = 0;
};

/// All experts on this rank: the reference.
[[nodiscard]] std::unique_ptr<Dispatcher> make_local_dispatcher(int64_t num_experts);

/// The rows of one exchange of tokens, by rank: what each pass through a layer's dispatcher moves, for records and dry runs.
struct Passage {
  std::vector<int64_t> departing, arriving;
};

/// Experts dealt to the ranks of an axis in equal runs. The axis must outlive what is dispatched. `site` names the layer in
/// messages; `record`, if given, receives each passage of the forward passes, in order; `queue` as for RowExchange. Throws
/// ConfigError when the experts cannot be dealt equally.
[[nodiscard]] std::unique_ptr<Dispatcher> make_all_to_all_dispatcher(int64_t num_experts, const parallel::ExpertAxis& axis, std::string site = {},
                                                                     std::vector<Passage>* record = nullptr, kernels::GradientQueue* queue = nullptr);

/// The exchanges that a passage of tokens with `choices` experts and `dim` numbers each makes in a forward pass (and, with
/// `backward`, in the backward pass behind it), without data: for dry runs. `two_hops`: on an axis of several nodes.
void rehearse(parallel::Communicator& group, const Passage& passage, int64_t choices, int64_t dim, const Wire& wire, bool two_hops, bool backward);

}  // namespace tessera::moe
