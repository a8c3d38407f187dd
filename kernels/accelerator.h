// What another device does in place of the kernels in kernels/cpu/. The functions of kernels/*.h, whose comments hold here too, ask
// accelerator_of(tensor) first. Activations are float32 or bfloat16, whatever comes in; gradients of weights, norms' rstd, scores and
// log-probabilities are float32. Nothing here waits for the device.
//
// Legend: T tokens (rows), D model dim, E experts, K choices a token, N rows of experts, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/attention.h"
#include "kernels/attention_core.h"
#include "kernels/cross_entropy.h"
#include "kernels/fp8/quantize.h"
#include "kernels/gemm.h"
#include "kernels/grouped_gemm.h"
#include "kernels/optimizer.h"
#include "kernels/permute.h"

namespace tessera::kernels {

/// How a token's experts are chosen from its scores [E] and the bias; see moe/config.h.
struct ExpertChoice {
  int64_t experts = 1, choices = 1, groups = 1, kept_groups = 1;
  bool group_by_maximum = false;  // a group's score: its best, or the sum of its two best
};

class Accelerator {
 public:
  virtual ~Accelerator() = default;

  /// A copy of what lies on the host, which may change at once; the copy may still be under way.
  virtual at::Tensor upload(const at::Tensor& host) const = 0;
  /// Waits until the device has done all it was given: for measurements.
  virtual void synchronize() const = 0;
  /// Most memory of the device that tensors have had at a time.
  virtual int64_t peak_bytes() const = 0;

  virtual at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, float eps, at::Tensor* rstd) const = 0;
  virtual at::Tensor rms_norm_backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& w, const at::Tensor& rstd,
                                       const at::Tensor& dw) const = 0;
  /// Heads of w.numel() side by side in the rows of x, in place.
  virtual void norm_heads(const at::Tensor& x, const at::Tensor& w, float eps) const = 0;
  /// The gradient behind norm_heads becomes that in front of it, in place; `dw` is added to where it is defined.
  virtual void norm_heads_backward(const at::Tensor& gradient, const at::Tensor& x, const at::Tensor& w, float eps, const at::Tensor& dw) const = 0;
  virtual at::Tensor swiglu(const at::Tensor& gate_up) const = 0;
  virtual at::Tensor swiglu_backward(const at::Tensor& d_out, const at::Tensor& gate_up) const = 0;
  virtual void gemm(const at::Tensor& a, Transpose transpose_a, const at::Tensor& b, Transpose transpose_b, const at::Tensor& c, double alpha,
                    double beta) const = 0;

  virtual at::Tensor embedding(const at::Tensor& ids, const at::Tensor& table) const = 0;
  virtual void embedding_backward(const at::Tensor& dy, const at::Tensor& ids, const at::Tensor& gradient) const = 0;

  /// As in attention_core.h.
  virtual void rotate_heads(const at::Tensor& x, int64_t heads, int64_t head_stride, int64_t dim, RopePairs pairs, const at::Tensor& positions,
                            const RopeTable& rope, bool inverse) const = 0;
  virtual void attend(const HeadLayout& layout, const Operands& operands, const SegmentPlan& plan, const at::Tensor& out, const at::Tensor& lse) const = 0;
  virtual void attend_backward(const HeadLayout& layout, const Operands& operands, const SegmentPlan& plan, const at::Tensor& out, const at::Tensor& lse,
                               const at::Tensor& d_out, const Operands& gradients) const = 0;

  /// As in attention.h. Addresses are the device's, of what q and rows are made of.
  virtual void store_rows(const at::Tensor& rows, const std::vector<void*>& to, int64_t offset) const = 0;
  virtual at::Tensor attend_cached(const at::Tensor& q, const AttentionShape& shape, int64_t value_dim, const CachedRows& cached) const = 0;

  /// [T, K] int32, best first; among equals the lower index. scores: [T, E]; bias: [E] or undefined.
  virtual at::Tensor choose_experts(const at::Tensor& scores, const at::Tensor& bias, const ExpertChoice& rules) const = 0;
  /// Rows sorted by expert, within an expert by token; experts: [T, K] int32, all in [0, num_experts).
  virtual RowMapPtr sort_by_expert(const at::Tensor& experts, int64_t num_experts, RowGroups& groups) const = 0;
  /// Of any type, codes among them.
  virtual at::Tensor gather_rows(const at::Tensor& x, const RowMap& map) const = 0;
  /// Adds to y [T, D] the sums of each token's rows, times `weights` [T, K] where they are defined.
  virtual void add_sums(const at::Tensor& rows, const RowMap& map, const at::Tensor& weights, const at::Tensor& y) const = 0;
  /// Gradients of such a weighted sum: d_rows [N, D] and d_weights [T, K], which is 0 where a choice has no row.
  virtual void sums_backward(const at::Tensor& dy, const at::Tensor& rows, const at::Tensor& weights, const RowMap& map, const at::Tensor& d_rows,
                             const at::Tensor& d_weights) const = 0;
  /// Each group's rows of x [N, in] times its matrix of w [E out, in], transposed; or with kNo: x [N, out] times it.
  virtual at::Tensor grouped_product(const at::Tensor& x, const at::Tensor& w, Transpose transpose, const RowGroups& groups) const = 0;
  /// gradient [E out, in] += dy_e^T u_e.
  virtual void add_grouped_gradient(const at::Tensor& dy, const at::Tensor& u, const RowGroups& groups, const at::Tensor& gradient) const = 0;

  /// In place; ids: [N] int32, weights: [N] float32. Fills log_probs [N].
  virtual void cross_entropy(const at::Tensor& logits, const at::Tensor& ids, const at::Tensor& weights, bool want_gradient,
                             const at::Tensor& log_probs) const = 0;
  /// softmax: [N, 5] float32, the device's own numbers of SoftmaxRow; log_prob and entropy are its columns 3 and 4.
  virtual void softmax_rows(const at::Tensor& logits, const at::Tensor& ids, float inverse_temperature, const at::Tensor& softmax) const = 0;
  virtual void softmax_gradient(const at::Tensor& logits, const at::Tensor& ids, const at::Tensor& weights, float inverse_temperature,
                                const at::Tensor& softmax) const = 0;
  /// Tokens drawn from softmax(logits inverse_temperature), [N, 2] float64: the token at uniforms[n] of the way through the probabilities, or the
  /// first of the likeliest with `greedy`, and its log-probability. logits: [N, V]; uniforms: [N] float64 in [0, 1).
  virtual at::Tensor draw_tokens(const at::Tensor& logits, const at::Tensor& uniforms, double inverse_temperature, bool greedy) const = 0;
  /// y[indices[i]] += rows[i], in order. indices: [N] int64.
  virtual void add_rows(const at::Tensor& rows, const at::Tensor& indices, const at::Tensor& y) const = 0;

  /// As fp8/quantize.h's, of float32 or bfloat16. `transposed`: codes and scales as those of x^T.
  virtual fp8::Quantized quantize(const at::Tensor& x, const fp8::Scheme& scheme, bool transposed) const = 0;
  virtual at::Tensor dequantize(const fp8::Quantized& x, const fp8::Scheme& scheme, at::ScalarType type) const = 0;
  /// Of rms_norm(x, w, eps, rstd).
  virtual fp8::Quantized quantize_norm(const at::Tensor& x, const at::Tensor& w, float eps, const fp8::Scheme& scheme, at::Tensor* rstd) const = 0;
  /// Of swiglu(gate_up), and of gates and ups [T, 2F] as rows [2T, F].
  struct QuantizedSwiglu {
    fp8::Quantized product, gate_up;
  };
  virtual QuantizedSwiglu quantize_swiglu(const at::Tensor& gate_up, const fp8::Scheme& scheme) const = 0;
  /// swiglu() and swiglu_backward() of what such rows stand for.
  virtual at::Tensor swiglu_of_codes(const fp8::Quantized& gate_up, const fp8::Scheme& scheme, at::ScalarType type) const = 0;
  virtual at::Tensor swiglu_backward_of_codes(const at::Tensor& d_out, const fp8::Quantized& gate_up, const fp8::Scheme& scheme) const = 0;
  /// a b^T [M, N] in `type` from codes a [M, K] and b [N, K].
  virtual at::Tensor scaled_product(const fp8::Quantized& a, const fp8::Scheme& scheme_a, const fp8::Quantized& b, const fp8::Scheme& scheme_b,
                                    at::ScalarType type) const = 0;

  /// Of `matrices` stacked ones, each with tiles of its own: their codes one below the other, and their scales.
  virtual fp8::Quantized quantize_stack(const at::Tensor& x, const fp8::Scheme& scheme, int64_t matrices, bool transposed) const = 0;

  /// The same for each group's rows of x [N, in] and its matrix of w [E out, in], each with blocks of its own; in the type of x's activations.
  virtual at::Tensor grouped_scaled_product(const fp8::Quantized& x, const fp8::Scheme& scheme_x, const fp8::Quantized& w, const fp8::Scheme& scheme_w,
                                            const RowGroups& groups, at::ScalarType type) const = 0;
  /// gradient [E out, in] += dy_e^T u_e, of operands that are quantised along tokens, tiles beginning anew with each group.
  virtual void add_grouped_scaled_gradient(const at::Tensor& dy, const fp8::Scheme& scheme_dy, const at::Tensor& u, const fp8::Scheme& scheme_u,
                                           const RowGroups& groups, const at::Tensor& gradient) const = 0;

  virtual void adamw(const std::vector<AdamWUpdate>& updates, const AdamWStep& step) const = 0;
  /// A float64 scalar on the device.
  virtual at::Tensor sum_of_squares(const std::vector<at::Tensor>& parts) const = 0;
};

/// By type of device; use the functions below.
inline std::array<const Accelerator*, static_cast<size_t>(c10::DeviceType::COMPILE_TIME_MAX_DEVICE_TYPES)> registered_accelerators{};

/// Null: the kernels in kernels/cpu/.
inline const Accelerator* accelerator_of(c10::DeviceType type) { return registered_accelerators[static_cast<size_t>(type)]; }
inline const Accelerator* accelerator_of(const at::Tensor& x) { return accelerator_of(x.device().type()); }
/// x where `like` lies.
[[nodiscard]] at::Tensor beside(const at::Tensor& like, const at::Tensor& x);

/// Before any tensor of that kind is used. For kCPU: another implementation in place of the usual one, as tests want it. It must outlive all use.
inline void set_accelerator(c10::DeviceType type, const Accelerator* accelerator) { registered_accelerators[static_cast<size_t>(type)] = accelerator; }

}  // namespace tessera::kernels
