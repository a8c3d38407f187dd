#include "kernels/cross_entropy.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstring>

#include "core/error.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/gemm.h"
#include "kernels/rms_norm.h"
#include "kernels/threads.h"

namespace tessera::kernels {

namespace {

// Logits held at a time, in floats: large enough for the GEMMs, small beside the activations.
constexpr int64_t kChunkFloats = int64_t{16} << 20;

struct Result {
  at::Tensor log_probs;  // [N]
  at::Tensor d_rows;     // [N, D] gradient of the gathered hidden rows, or undefined
  double loss = 0;
};

Result run_chunks(const at::Tensor& hidden, const LinearSpec& head, const Targets& targets, bool want_gradient) {
  const int64_t count = static_cast<int64_t>(targets.ids.size()), dim = hidden.size(1);
  await(head);
  const at::Tensor& weight = head.weight->value;
  const int64_t vocabulary = weight.size(0);
  Result result;
  result.log_probs = at::empty({count}, hidden.options());
  if (want_gradient) result.d_rows = at::empty({count, dim}, hidden.options());
  float* log_probs = result.log_probs.data_ptr<float>();
  const int64_t chunk = std::max<int64_t>(32, std::min(count, kChunkFloats / vocabulary));
  at::Tensor logits_buffer = at::empty({std::min(chunk, count), vocabulary}, hidden.options());
  const float* rows = hidden.const_data_ptr<float>();
  const bool norm = head.prologue == Prologue::kRmsNorm;
  const bool norm_trains = norm && head.norm->trainable();
  for (int64_t begin = 0; begin < count; begin += chunk) {
    const int64_t n = std::min(chunk, count - begin);
    at::Tensor x = at::empty({n, dim}, hidden.options());
    float* gathered = x.data_ptr<float>();
    for (int64_t i = 0; i < n; ++i)
      std::memcpy(gathered + i * dim, rows + targets.sources[static_cast<size_t>(begin + i)] * dim,
                  static_cast<size_t>(dim) * sizeof(float));
    at::Tensor rstd;
    const at::Tensor u = norm ? rms_norm(x, head.norm->value, head.norm_eps, &rstd) : x;
    at::Tensor logits = logits_buffer.narrow(0, 0, n);
    gemm(u, Transpose::kNo, weight, Transpose::kYes, logits);
    if (head.bias) logits.add_(head.bias->value);
    float* p = logits.data_ptr<float>();
    for_each_chunk(n, 1, [&](int64_t, int64_t first, int64_t last) {
      kernel_table().cross_entropy(p + first * vocabulary, last - first, vocabulary, targets.ids.data() + begin + first,
                                   targets.weights.data() + begin + first, want_gradient, log_probs + begin + first);
    });
    if (!want_gradient) continue;
    if (head.weight->trainable()) gemm(logits, Transpose::kYes, u, Transpose::kNo, head.weight->open_gradient(), 1.0, 1.0);
    if (head.bias && head.bias->trainable()) head.bias->open_gradient().add_(logits.sum(0));
    at::Tensor du = product(logits, weight);
    if (norm) du = rms_norm_backward(du, x, head.norm->value, rstd, norm_trains ? head.norm->open_gradient() : at::Tensor());
    result.d_rows.narrow(0, begin, n).copy_(du);
  }
  if (want_gradient) {
    if (head.weight->trainable()) head.weight->gradient_added();
    if (head.bias && head.bias->trainable()) head.bias->gradient_added();
    if (norm_trains) head.norm->gradient_added();
  }
  for (int64_t i = 0; i < count; ++i) result.loss -= double{targets.weights[static_cast<size_t>(i)]} * log_probs[i];
  return result;
}

struct LossFunction : torch::autograd::Function<LossFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& d_rows,
                            const std::vector<int64_t>& sources, double loss) {
    ctx->save_for_backward({d_rows});
    ctx->saved_data["sources"] = sources;
    ctx->saved_data["tokens"] = hidden.size(0);
    return at::scalar_tensor(loss, hidden.options());
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list gradients) {
    TESSERA_CHECK(gradients[0].item<float>() == 1.0f, "the loss's gradient must be 1: weights carry every factor");
    const at::Tensor d_rows = ctx->get_saved_variables()[0];
    const auto sources = ctx->saved_data["sources"].toIntVector();
    const int64_t dim = d_rows.size(1);
    at::Tensor d_hidden = at::zeros({ctx->saved_data["tokens"].toInt(), dim}, d_rows.options());
    const float* from = d_rows.const_data_ptr<float>();
    float* to = d_hidden.data_ptr<float>();
    for (size_t i = 0; i < sources.size(); ++i)
      for (int64_t j = 0; j < dim; ++j) to[sources[i] * dim + j] += from[static_cast<int64_t>(i) * dim + j];
    return {d_hidden, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

CrossEntropy linear_cross_entropy(const at::Tensor& hidden, const LinearSpec& head, const Targets& targets) {
  TESSERA_CHECK(targets.ids.size() == targets.sources.size() && targets.ids.size() == targets.weights.size());
  const bool want_gradient = at::GradMode::is_enabled();
  Result result;
  {
    at::NoGradGuard no_grad;
    result = run_chunks(hidden, head, targets, want_gradient);
  }
  if (!want_gradient) return {at::scalar_tensor(result.loss, hidden.options()), result.log_probs};
  return {LossFunction::apply(hidden, result.d_rows, targets.sources, result.loss), result.log_probs};
}

}  // namespace tessera::kernels
