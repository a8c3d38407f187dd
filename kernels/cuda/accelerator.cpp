#include "kernels/cuda/accelerator.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAStream.h>

#include <mutex>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#ifdef TESSERA_CUTLASS  // only where there are kernels of our own
#include "kernels/cuda/grouped_fp8.h"
#endif
#ifdef TESSERA_CUDA_KERNELS
#include "kernels/cuda/kernel_accelerator.h"
#endif
#include "kernels/cuda/scaled_product.h"

namespace tessera::kernels::cuda {

namespace {

constexpr int64_t kFlashHeadDim = 256;  // at most
constexpr int64_t kAlignment = 8;       // bfloat16 numbers in the 16 bytes by which a grouped product's rows are read

/// Sequences as flash attention takes them.
struct Sequences {
  at::Tensor starts;  // [S + 1] int32, on the device
  int64_t longest = 0;
};

/// Tokens of no segment attend to themselves as sequences of their own: nobody looks at what comes out.
std::pair<std::vector<int32_t>, int64_t> sequence_starts(const std::vector<Segment>& segments, int64_t tokens) {
  std::vector<int32_t> starts = {0};
  int64_t longest = 0;
  const auto close = [&](int64_t end) {
    if (end == starts.back()) return;
    longest = std::max(longest, end - starts.back());
    starts.push_back(static_cast<int32_t>(end));
  };
  for (const Segment& s : segments) {
    close(s.start);
    close(s.start + s.length);
  }
  close(tokens);
  return {std::move(starts), longest};
}

#ifdef TESSERA_CUDA_KERNELS
using Base = KernelAccelerator;
#else
using Base = TensorAccelerator;  // built without nvcc
#endif

class CudaAccelerator final : public Base {
 public:
  CudaAccelerator() : Base(at::kCUDA) {}

  // From pinned memory, so that the host does not wait until the device has come so far.
  at::Tensor upload(const at::Tensor& host) const override {
    return host.numel() == 0 ? host.to(at::kCUDA) : host.pin_memory().to(at::kCUDA, /*non_blocking=*/true);
  }

  int64_t peak_bytes() const override {
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(c10::cuda::current_device());
    return stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
  }

  void attend(const HeadLayout& l, const Operands& operands, const SegmentPlan& plan, const at::Tensor& out, const at::Tensor& lse) const override {
    if (!suits_flash(l, operands, plan)) return Base::attend(l, operands, plan, out, lse);
    const Sequences sequences = sequences_of(plan, out.size(0));
    const auto [q, k, v] = flash_operands(l, operands);
    const auto result = at::_flash_attention_forward(q, k, v, sequences.starts, sequences.starts, sequences.longest, sequences.longest, 0.0,
                                                     /*is_causal=*/true, /*return_debug_mask=*/false, double{l.scale});
    by_head(out, l.heads, l.value_dim).copy_(std::get<0>(result).narrow(2, 0, l.value_dim));
    at::Tensor(lse).copy_(std::get<1>(result).view(lse.sizes()));
  }

  void attend_backward(const HeadLayout& l, const Operands& operands, const SegmentPlan& plan, const at::Tensor& out, const at::Tensor& lse,
                       const at::Tensor& d_out, const Operands& gradients) const override {
    if (!suits_flash(l, operands, plan)) return Base::attend_backward(l, operands, plan, out, lse, d_out, gradients);
    const Sequences sequences = sequences_of(plan, out.size(0));
    const auto [q, k, v] = flash_operands(l, operands);
    const int64_t width = l.key_dim + l.shared_dim;
    const auto values = [&](const at::Tensor& x) { return padded(by_head(x, l.heads, l.value_dim), width); };
    const at::Tensor no_dropout = at::zeros({2}, lse.options().dtype(at::kLong));
    const auto [d_q, d_k, d_v] = at::_flash_attention_backward(values(d_out), q, k, v, values(out), lse, sequences.starts, sequences.starts, sequences.longest,
                                                               sequences.longest, 0.0, /*is_causal=*/true, no_dropout, no_dropout, double{l.scale});
    by_head(gradients.q, l.heads, width).copy_(d_q);
    heads_of(gradients.k, l.key_value_heads, l.key_step, l.key_dim).add_(d_k.narrow(2, 0, l.key_dim));
    heads_of(gradients.v, l.key_value_heads, l.value_step, l.value_dim).add_(d_v.narrow(2, 0, l.value_dim));
    if (l.shared_dim > 0) at::Tensor(gradients.shared).add_(d_k.narrow(2, l.key_dim, l.shared_dim).transpose(0, 1));
  }

  at::Tensor grouped_product(const at::Tensor& x, const at::Tensor& w, Transpose transpose, const RowGroups& groups) const override {
    if (!suits_grouped(x, w)) return Base::grouped_product(x, w, transpose, groups);
    const at::Tensor stack = w.view({groups.experts(), -1, w.size(1)});
    return at::_grouped_mm(x, transpose == Transpose::kYes ? stack.transpose(1, 2) : stack, ends_of(groups));
  }

  void add_grouped_gradient(const at::Tensor& dy, const at::Tensor& u, const RowGroups& groups, const at::Tensor& gradient) const override {
    if (!suits_grouped(dy, u) || dy.size(0) == 0) return Base::add_grouped_gradient(dy, u, groups, gradient);
    at::Tensor(gradient).add_(at::_grouped_mm(dy.t(), u, ends_of(groups)).view(gradient.sizes()));
  }

  at::Tensor scaled_product(const fp8::Quantized& a, const fp8::Scheme& scheme_a, const fp8::Quantized& b, const fp8::Scheme& scheme_b,
                            at::ScalarType type) const override {
    static const ScaledProducts products;
    const at::Tensor product = products.product(a, scheme_a, b, scheme_b, type);
    if (product.defined()) return product;
    const at::Tensor left = dequantize(a, scheme_a, at::kBFloat16), right = dequantize(b, scheme_b, at::kBFloat16);
    return type == at::kBFloat16 ? left.mm(right.t()) : product_in(left, right.t(), type);
  }

  at::Tensor grouped_scaled_product(const fp8::Quantized& x, const fp8::Scheme& scheme_x, const fp8::Quantized& w, const fp8::Scheme& scheme_w,
                                    const RowGroups& groups, at::ScalarType type) const override {
#ifdef TESSERA_CUTLASS
    if (suits_grouped_fp8(x, scheme_x, w, scheme_w, groups, type)) {
      static const bool works = grouped_fp8_works();
      if (works) return grouped_fp8_product(x, w, groups);
    }
#endif
    return Base::grouped_scaled_product(x, scheme_x, w, scheme_w, groups, type);
  }

 protected:
#ifdef TESSERA_CUDA_KERNELS
  void* stream() const override { return c10::cuda::getCurrentCUDAStream().stream(); }
#ifdef TESSERA_CUTLASS
  void add_padded_product(const fp8::Quantized& dy, const fp8::Quantized& u, const RowGroups& padded, at::ScalarType type,
                          const at::Tensor& gradient) const override {
    static const bool works = grouped_fp8_gradient_works();
    const bool fits = dy.codes.size(0) % 16 == 0 && u.codes.size(0) % 16 == 0 && gradient.is_contiguous();
    works && fits ? multiply_padded(dy, u, padded, gradient) : Base::add_padded_product(dy, u, padded, type, gradient);
  }
#endif
#endif
  at::Tensor product_in(const at::Tensor& a, const at::Tensor& b, at::ScalarType type) const override { return at::mm(a, b, type); }

 private:
  static at::Tensor by_head(const at::Tensor& matrix, int64_t heads, int64_t dim) { return heads_of(matrix, heads, dim, dim); }
  static at::Tensor padded(const at::Tensor& heads, int64_t width) {
    return heads.size(2) == width ? heads : at::constant_pad_nd(heads, {0, width - heads.size(2)});
  }

  /// Queries, keys and values need heads of one width: MLA's values are padded.
  static std::tuple<at::Tensor, at::Tensor, at::Tensor> flash_operands(const HeadLayout& l, const Operands& x) {
    const int64_t width = l.key_dim + l.shared_dim;
    at::Tensor k = heads_of(x.k, l.key_value_heads, l.key_step, l.key_dim);
    if (l.shared_dim > 0) k = at::cat({k, x.shared.narrow(1, 0, l.shared_dim).unsqueeze(1).expand({-1, l.key_value_heads, -1})}, 2);
    return {by_head(x.q, l.heads, width), k, padded(heads_of(x.v, l.key_value_heads, l.value_step, l.value_dim), width)};
  }

  static bool suits_flash(const HeadLayout& l, const Operands& x, const SegmentPlan& plan) {
    const bool branches = std::any_of(plan.segments.begin(), plan.segments.end(), [](const Segment& s) { return s.parent >= 0; });
    const int64_t width = l.key_dim + l.shared_dim;
    return x.q.scalar_type() == at::kBFloat16 && x.q.size(0) > 0 && !branches && width <= kFlashHeadDim && width % kAlignment == 0 && l.value_dim <= width;
  }
  static bool suits_grouped(const at::Tensor& x, const at::Tensor& w) {
    return x.scalar_type() == at::kBFloat16 && w.scalar_type() == at::kBFloat16 && x.size(1) % kAlignment == 0 && w.size(1) % kAlignment == 0;
  }
  static at::Tensor ends_of(const RowGroups& groups) { return groups.device_offsets.narrow(0, 1, groups.experts()); }

#ifdef TESSERA_CUTLASS
  /// Whether the gradient comes out as that of the numbers that the codes stand for, with a group of one row and one of none.
  [[nodiscard]] bool grouped_fp8_gradient_works() const {
    constexpr int64_t kOut = 272, kIn = 336;
    const fp8::Scheme by_token{fp8::Format::kE4m3, {128, 1}};
    const auto options = at::TensorOptions(at::kFloat).device(at::kCUDA);
    RowGroups groups({0, 1, 1, 205, 320});
    groups.copy_to(*this);
    const at::Tensor dy = at::randn({320, kOut}, options), u = at::randn({320, kIn}, options) * at::logspace(-2, 2, kIn, 10.0, options);
    const at::Tensor expected = at::ones({4 * kOut, kIn}, options), gradient = expected.clone();
    TensorAccelerator::add_grouped_scaled_gradient(dy, by_token, u, by_token, groups, expected);
    return agrees("gradients of experts' weights", [&] {
      const auto [q_dy, q_u, padded] = quantized_by_expert(dy, by_token, u, by_token, groups);
      multiply_padded(q_dy, q_u, padded, gradient);
      return gradient;
    }, expected);
  }

  void multiply_padded(const fp8::Quantized& dy, const fp8::Quantized& u, const RowGroups& padded, const at::Tensor& gradient) const {
    const auto experts = static_cast<int32_t>(padded.experts());
    const at::Tensor workspace = at::empty({static_cast<int64_t>(grouped_fp8_workspace(experts))}, gradient.options().dtype(at::kByte));
    const char* problem = grouped_fp8_gradient({.dy = dy.codes.const_data_ptr(), .dy_scales = dy.scales.const_data_ptr<float>(), .u = u.codes.const_data_ptr(),
                                                .u_scales = u.scales.const_data_ptr<float>(), .offsets = padded.device_offsets.const_data_ptr<int32_t>(),
                                                .gradient = gradient.data_ptr<float>(), .padded = dy.codes.size(1), .out = dy.codes.size(0),
                                                .in = u.codes.size(0), .experts = experts, .workspace = workspace.data_ptr(), .stream = stream()});
    TESSERA_CHECK(problem == nullptr, "gradient of experts in FP8: ", problem);
  }

  /// Whether product() runs and is near `expected`; logged.
  template <typename Product>
  static bool agrees(const char* what, const Product& product, const at::Tensor& expected) {
    try {
      const double error = ((product().to(at::kFloat) - expected).norm() / expected.norm()).template item<double>();
      if (error < 0.02) {
        log::info(what, ": FP8 by CUTLASS");
        return true;
      }
      log::warn(what, ": CUTLASS's FP8 is off by ", error, " on this device; they multiply in bfloat16");
    } catch (const std::exception& refused) {
      log::warn(what, ": CUTLASS's FP8 does not run on this device; they multiply in bfloat16 (", refused.what(), ')');
    }
    return false;
  }

  static bool suits_grouped_fp8(const fp8::Quantized& x, const fp8::Scheme& scheme_x, const fp8::Quantized& w, const fp8::Scheme& scheme_w,
                                const RowGroups& groups, at::ScalarType type) {
    const int64_t out = w.codes.size(0) / groups.experts();
    return type == at::kBFloat16 && x.codes.size(0) > 0 && scheme_x.tile == fp8::Tile{1, 128} && scheme_w.tile == fp8::Tile{128, 128} &&
           scheme_x.format == fp8::Format::kE4m3 && scheme_w.format == fp8::Format::kE4m3 && x.codes.size(1) % 16 == 0 && out % 16 == 0;
  }

  static at::Tensor grouped_fp8_product(const fp8::Quantized& x, const fp8::Quantized& w, const RowGroups& groups) {
    const auto experts = static_cast<int32_t>(groups.experts());
    const int64_t out = w.codes.size(0) / experts;
    at::Tensor y = at::empty({x.codes.size(0), out}, x.scales.options().dtype(at::kBFloat16));
    const at::Tensor workspace = at::empty({static_cast<int64_t>(grouped_fp8_workspace(experts))}, y.options().dtype(at::kByte));
    const at::Tensor x_scales = x.scales.contiguous(), w_scales = w.scales.contiguous();
    const char* problem = grouped_fp8({.x = x.codes.const_data_ptr(), .x_scales = x_scales.const_data_ptr<float>(), .w = w.codes.const_data_ptr(),
                                       .w_scales = w_scales.const_data_ptr<float>(), .offsets = groups.device_offsets.const_data_ptr<int32_t>(),
                                       .y = y.data_ptr(), .rows = x.codes.size(0), .out = out, .in = x.codes.size(1), .experts = experts,
                                       .workspace = workspace.data_ptr(), .stream = c10::cuda::getCurrentCUDAStream().stream()});
    TESSERA_CHECK(problem == nullptr, "grouped product in FP8: ", problem);
    return y;
  }

  /// Whether it comes out as the product of the dequantised operands, with experts of uneven numbers of rows, and one of none.
  [[nodiscard]] bool grouped_fp8_works() const {
    constexpr int64_t kOut = 272, kIn = 336;
    const fp8::Scheme by_row{fp8::Format::kE4m3, {1, 128}}, blocks{fp8::Format::kE4m3, {128, 128}};
    const auto options = at::TensorOptions(at::kFloat).device(at::kCUDA);
    RowGroups groups({0, 5, 5, 205, 320});
    groups.copy_to(*this);
    const at::Tensor magnitudes = at::logspace(-2, 2, kIn, 10.0, options);
    const auto x = quantize(at::randn({320, kIn}, options) * magnitudes, by_row, false);
    const auto w = quantize_stack(at::randn({groups.experts() * kOut, kIn}, options) * magnitudes.flip(0), blocks, groups.experts(), false);
    const at::Tensor expected = Base::grouped_scaled_product(x, by_row, w, blocks, groups, at::kFloat);
    return agrees("products of experts", [&] { return grouped_fp8_product(x, w, groups); }, expected);
  }
#endif

  /// All layers of a pass ask for the same.
  Sequences sequences_of(const SegmentPlan& plan, int64_t tokens) const {
    const std::lock_guard lock(mutex_);
    if (!last_.starts.defined() || tokens != last_tokens_ || plan.segments != last_segments_) {
      const auto [starts, longest] = sequence_starts(plan.segments, tokens);
      last_ = {upload(at::tensor(starts, at::kInt)), longest};
      last_segments_ = plan.segments;
      last_tokens_ = tokens;
    }
    return last_;
  }

  mutable std::mutex mutex_;
  mutable Sequences last_;
  mutable std::vector<Segment> last_segments_;
  mutable int64_t last_tokens_ = -1;
};

}  // namespace

const Accelerator& accelerator() {
  static const CudaAccelerator& all = *new CudaAccelerator;  // never destroyed: the driver goes first
  return all;
}

}  // namespace tessera::kernels::cuda
