// The accelerator of any device that LibTorch knows, in tensor operations: correct, and fast only where a library's operation is what is
// wanted. A device with kernels of its own overrides the rest; a vendor's plug-in may begin with this one.
#pragma once

#include "kernels/accelerator.h"

namespace tessera::kernels {

class TensorAccelerator : public Accelerator {
 public:
  /// Of `type`, whose index the thread's current device gives.
  explicit TensorAccelerator(c10::DeviceType type) : type_(type) {}

  at::Tensor upload(const at::Tensor& host) const override;
  void synchronize() const override;
  int64_t peak_bytes() const override { return 0; }

  at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, float eps, at::Tensor* rstd) const override;
  at::Tensor rms_norm_backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& w, const at::Tensor& rstd, const at::Tensor& dw) const override;
  void norm_heads(const at::Tensor& x, const at::Tensor& w, float eps) const override;
  void norm_heads_backward(const at::Tensor& gradient, const at::Tensor& x, const at::Tensor& w, float eps, const at::Tensor& dw) const override;
  at::Tensor swiglu(const at::Tensor& gate_up) const override;
  at::Tensor swiglu_backward(const at::Tensor& d_out, const at::Tensor& gate_up) const override;
  void gemm(const at::Tensor& a, Transpose transpose_a, const at::Tensor& b, Transpose transpose_b, const at::Tensor& c, double alpha,
            double beta) const override;
  at::Tensor embedding(const at::Tensor& ids, const at::Tensor& table) const override;
  void embedding_backward(const at::Tensor& dy, const at::Tensor& ids, const at::Tensor& gradient) const override;
  void rotate_heads(const at::Tensor& x, int64_t heads, int64_t head_stride, int64_t dim, RopePairs pairs, const at::Tensor& positions, const RopeTable& rope,
                    bool inverse) const override;
  void attend(const HeadLayout& layout, const Operands& operands, const SegmentPlan& plan, const at::Tensor& out, const at::Tensor& lse) const override;
  void attend_backward(const HeadLayout& layout, const Operands& operands, const SegmentPlan& plan, const at::Tensor& out, const at::Tensor& lse,
                       const at::Tensor& d_out, const Operands& gradients) const override;
  void store_rows(const at::Tensor& rows, const std::vector<void*>& to, int64_t offset) const override;
  at::Tensor attend_cached(const at::Tensor& q, const AttentionShape& shape, int64_t value_dim, const CachedRows& cached) const override;
  at::Tensor draw_tokens(const at::Tensor& logits, const at::Tensor& uniforms, double inverse_temperature, bool greedy) const override;
  at::Tensor choose_experts(const at::Tensor& scores, const at::Tensor& bias, const ExpertChoice& rules) const override;
  RowMapPtr sort_by_expert(const at::Tensor& experts, int64_t num_experts, RowGroups& groups) const override;
  at::Tensor gather_rows(const at::Tensor& x, const RowMap& map) const override;
  void add_sums(const at::Tensor& rows, const RowMap& map, const at::Tensor& weights, const at::Tensor& y) const override;
  void sums_backward(const at::Tensor& dy, const at::Tensor& rows, const at::Tensor& weights, const RowMap& map, const at::Tensor& d_rows,
                     const at::Tensor& d_weights) const override;
  at::Tensor grouped_product(const at::Tensor& x, const at::Tensor& w, Transpose transpose, const RowGroups& groups) const override;
  void add_grouped_gradient(const at::Tensor& dy, const at::Tensor& u, const RowGroups& groups, const at::Tensor& gradient) const override;
  void cross_entropy(const at::Tensor& logits, const at::Tensor& ids, const at::Tensor& weights, bool want_gradient,
                     const at::Tensor& log_probs) const override;
  void softmax_rows(const at::Tensor& logits, const at::Tensor& ids, float inverse_temperature, const at::Tensor& softmax) const override;
  void softmax_gradient(const at::Tensor& logits, const at::Tensor& ids, const at::Tensor& weights, float inverse_temperature,
                        const at::Tensor& softmax) const override;
  void add_rows(const at::Tensor& rows, const at::Tensor& indices, const at::Tensor& y) const override;
  fp8::Quantized quantize(const at::Tensor& x, const fp8::Scheme& scheme, bool transposed) const override;
  fp8::Quantized quantize_stack(const at::Tensor& x, const fp8::Scheme& scheme, int64_t matrices, bool transposed) const override;
  at::Tensor dequantize(const fp8::Quantized& x, const fp8::Scheme& scheme, at::ScalarType type) const override;
  fp8::Quantized quantize_norm(const at::Tensor& x, const at::Tensor& w, float eps, const fp8::Scheme& scheme, at::Tensor* rstd) const override;
  QuantizedSwiglu quantize_swiglu(const at::Tensor& gate_up, const fp8::Scheme& scheme) const override;
  at::Tensor swiglu_of_codes(const fp8::Quantized& gate_up, const fp8::Scheme& scheme, at::ScalarType type) const override;
  at::Tensor swiglu_backward_of_codes(const at::Tensor& d_out, const fp8::Quantized& gate_up, const fp8::Scheme& scheme) const override;
  at::Tensor scaled_product(const fp8::Quantized& a, const fp8::Scheme& scheme_a, const fp8::Quantized& b, const fp8::Scheme& scheme_b,
                            at::ScalarType type) const override;
  at::Tensor grouped_scaled_product(const fp8::Quantized& x, const fp8::Scheme& scheme_x, const fp8::Quantized& w, const fp8::Scheme& scheme_w,
                                    const RowGroups& groups, at::ScalarType type) const override;
  void add_grouped_scaled_gradient(const at::Tensor& dy, const fp8::Scheme& scheme_dy, const at::Tensor& u, const fp8::Scheme& scheme_u, const RowGroups& groups,
                                   const at::Tensor& gradient) const override;
  void adamw(const std::vector<AdamWUpdate>& updates, const AdamWStep& step) const override;
  at::Tensor sum_of_squares(const std::vector<at::Tensor>& parts) const override;

 protected:
  /// a b in `type`, which may be wider than theirs.
  virtual at::Tensor product_in(const at::Tensor& a, const at::Tensor& b, at::ScalarType type) const;

 private:
  c10::DeviceType type_;
};

}  // namespace tessera::kernels
