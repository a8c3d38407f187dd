#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "kernels/cpu/kernel_table.h"
#include "kernels/gemm.h"
#include "kernels/threads.h"
#include "moe/routing_math.h"
#include "moe/selection.h"

namespace tessera::moe {

namespace {

/// Of a token's chosen scores; 1 when weights are not normalised.
float chosen_sum(const MoeConfig& config, const float* scores, const int32_t* chosen) {
  if (!config.norm_topk_prob) return 1.0f;
  float sum = 0;
  for (int64_t k = 0; k < config.experts_per_token; ++k) sum += scores[chosen[k]];
  return sum + kNormEpsilon;
}

double score_sum(const float* s, int64_t count) {
  double sum = 0;
  for (int64_t e = 0; e < count; ++e) sum += double{s[e]};
  return sum;
}

class HostBalance final : public SequenceBalance {
 public:
  HostBalance(const std::vector<Segment>& segments, const at::Tensor& experts, const MoeConfig& config, double weight)
      : segments_(segments), num_experts_(config.num_experts), weight_(weight), f_(segments.size() * static_cast<size_t>(num_experts_)) {
    const int64_t choices = config.experts_per_token;
    const int32_t* chosen = experts.const_data_ptr<int32_t>();
    for (size_t i = 0; i < segments.size(); ++i) {
      const Segment& segment = segments[i];
      double* f = row(i);
      for (int64_t slot = segment.start * choices; slot < (segment.start + segment.length) * choices; ++slot) ++f[chosen[slot]];
      for (int64_t e = 0; e < num_experts_; ++e)
        f[e] = static_cast<double>(num_experts_) * f[e] / static_cast<double>(choices * segment.length);
    }
  }

  [[nodiscard]] at::Tensor loss(const at::Tensor& scores) const override {
    const float* score = scores.const_data_ptr<float>();
    double loss = 0;
    for_each_token([&](int64_t t, const double* f, double factor) {
      const float* s = score + t * num_experts_;
      double dot = 0;
      for (int64_t e = 0; e < num_experts_; ++e) dot += f[e] * s[e];
      loss += factor * dot / score_sum(s, num_experts_);
    });
    return at::scalar_tensor(loss, at::kDouble);
  }

  void add_gradient(const at::Tensor& scores, const at::Tensor& d_scores) const override {
    const float* score = scores.const_data_ptr<float>();
    float* ds = d_scores.data_ptr<float>();
    for_each_token([&](int64_t t, const double* f, double factor) {
      const float* s = score + t * num_experts_;
      const double sum = score_sum(s, num_experts_);
      double mean = 0;
      for (int64_t e = 0; e < num_experts_; ++e) mean += f[e] * s[e] / sum;
      for (int64_t e = 0; e < num_experts_; ++e) ds[t * num_experts_ + e] += static_cast<float>(factor * (f[e] - mean) / sum);
    });
  }

 private:
  [[nodiscard]] double* row(size_t segment) { return f_.data() + segment * static_cast<size_t>(num_experts_); }

  /// body(token, f [E] of its segment, weight / length of its segment)
  template <typename Body>
  void for_each_token(const Body& body) const {
    for (size_t i = 0; i < segments_.size(); ++i) {
      const Segment& segment = segments_[i];
      const double* f = f_.data() + i * static_cast<size_t>(num_experts_);
      for (int64_t t = segment.start; t < segment.start + segment.length; ++t) body(t, f, weight_ / static_cast<double>(segment.length));
    }
  }

  std::vector<Segment> segments_;
  int64_t num_experts_;
  double weight_;
  std::vector<double> f_;  // [segments, E]
};

class HostRouting final : public RoutingMath {
 public:
  [[nodiscard]] at::Tensor logits(const at::Tensor& x, const at::Tensor& w) const override { return kernels::product_with_transposed(x, w); }

  /// at::sigmoid takes another way for the last elements, so that a token's scores would depend on how many others there are.
  [[nodiscard]] at::Tensor sigmoid(const at::Tensor& x) const override {
    at::Tensor y = at::empty(x.sizes(), x.options());  // x may be rows of a larger tensor
    const at::Tensor dense = x.contiguous();
    kernels::kernel_table().sigmoid(dense.const_data_ptr<float>(), dense.numel(), y.data_ptr<float>());
    return y;
  }

  [[nodiscard]] at::Tensor choose(const at::Tensor& scores, const at::Tensor& bias, const at::Tensor& imposed, const MoeConfig& config) const override {
    const int64_t tokens = scores.size(0), num_experts = scores.size(1), k = config.experts_per_token;
    at::Tensor experts = at::empty({tokens, k}, at::kInt);
    const float *score = scores.const_data_ptr<float>(), *b = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
    const int32_t* given = imposed.defined() ? imposed.const_data_ptr<int32_t>() : nullptr;
    int32_t* chosen = experts.data_ptr<int32_t>();
    kernels::for_each_chunk(tokens, 16, [&](int64_t, int64_t begin, int64_t end) {
      Selector selector(config);
      for (int64_t t = begin; t < end; ++t) {
        if (given != nullptr && given[t * k] >= 0) {
          std::copy_n(given + t * k, k, chosen + t * k);
        } else {
          selector.choose(score + t * num_experts, b, chosen + t * k);
        }
      }
    });
    return experts;
  }

  [[nodiscard]] at::Tensor weights(const at::Tensor& scores, const at::Tensor& experts, const MoeConfig& config) const override {
    const int64_t tokens = scores.size(0), num_experts = scores.size(1), choices = config.experts_per_token;
    at::Tensor weights = at::empty({tokens, choices}, scores.options());
    const auto scale = static_cast<float>(config.routed_scaling_factor);
    const float* score = scores.const_data_ptr<float>();
    const int32_t* chosen = experts.const_data_ptr<int32_t>();
    float* w = weights.data_ptr<float>();
    for (int64_t t = 0; t < tokens; ++t) {
      const float sum = chosen_sum(config, score + t * num_experts, chosen + t * choices);
      for (int64_t k = 0; k < choices; ++k) w[t * choices + k] = score[t * num_experts + chosen[t * choices + k]] / sum * scale;
    }
    return weights;
  }

  [[nodiscard]] at::Tensor weights_backward(const at::Tensor& d_weights, const at::Tensor& scores, const at::Tensor& experts,
                                            const MoeConfig& config) const override {
    at::Tensor d_scores = at::zeros_like(scores);
    const int64_t tokens = scores.size(0), num_experts = scores.size(1), choices = config.experts_per_token;
    const auto scale = static_cast<float>(config.routed_scaling_factor);
    const float *score = scores.const_data_ptr<float>(), *dw = d_weights.const_data_ptr<float>();
    const int32_t* chosen = experts.const_data_ptr<int32_t>();
    float* ds = d_scores.data_ptr<float>();
    for (int64_t t = 0; t < tokens; ++t) {
      const float* s = score + t * num_experts;
      const int32_t* c = chosen + t * choices;
      const float sum = chosen_sum(config, s, c);
      float mean = 0;  // of d_weights under the normalised weights
      if (config.norm_topk_prob)
        for (int64_t k = 0; k < choices; ++k) mean += dw[t * choices + k] * s[c[k]] / sum;
      for (int64_t k = 0; k < choices; ++k) ds[t * num_experts + c[k]] += scale * (dw[t * choices + k] - mean) / sum;
    }
    return d_scores;
  }

  [[nodiscard]] std::unique_ptr<SequenceBalance> balance(const std::vector<Segment>& segments, const at::Tensor& experts, const MoeConfig& config,
                                                         double weight) const override {
    return std::make_unique<HostBalance>(segments, experts, config, weight);
  }
};

}  // namespace

const RoutingMath& host_routing() {
  static const HostRouting routing;
  return routing;
}

}  // namespace tessera::moe
