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

// Logits made at a time, in floats: large enough for the GEMMs, small beside the activations.
constexpr int64_t kChunkFloats = int64_t{16} << 20;

/// The head over the targets' rows, a chunk at a time.
class HeadPass {
 public:
  HeadPass(const at::Tensor& hidden, const LinearSpec& head, const Targets& targets, bool want_gradient)
      : hidden_(hidden), head_(head), targets_(targets), count_(static_cast<int64_t>(targets.ids.size())),
        vocabulary_(head.weight->value.size(0)), chunk_(std::max<int64_t>(32, std::min(count_, kChunkFloats / vocabulary_))) {
    await(head);
    if (want_gradient) d_rows_ = at::empty({count_, hidden.size(1)}, hidden.options());
  }

  struct Chunk {
    int64_t begin = 0, rows = 0;
    at::Tensor x, rstd, u, logits;
  };

  [[nodiscard]] int64_t floats() const { return count_ * vocabulary_; }
  [[nodiscard]] const at::Tensor& d_rows() const { return d_rows_; }

  template <typename Body>
  void for_chunks(const Body& body) const {
    for (int64_t begin = 0; begin < count_; begin += chunk_) body(begin, std::min(chunk_, count_ - begin));
  }

  /// `logits` are made in `buffer` where it is defined.
  [[nodiscard]] Chunk forward(int64_t begin, int64_t rows, const at::Tensor& buffer) const {
    const int64_t dim = hidden_.size(1);
    Chunk c{begin, rows, at::empty({rows, dim}, hidden_.options()), {}, {}, {}};
    const float* from = hidden_.const_data_ptr<float>();
    float* gathered = c.x.data_ptr<float>();
    for (int64_t i = 0; i < rows; ++i)
      std::memcpy(gathered + i * dim, from + targets_.sources[static_cast<size_t>(begin + i)] * dim, static_cast<size_t>(dim) * sizeof(float));
    c.u = norm() ? rms_norm(c.x, head_.norm->value, head_.norm_eps, &c.rstd) : c.x;
    c.logits = buffer.defined() ? buffer.narrow(0, 0, rows) : at::empty({rows, vocabulary_}, hidden_.options());
    gemm(c.u, Transpose::kNo, head_.weight->value, Transpose::kYes, c.logits);
    if (head_.bias) c.logits.add_(head_.bias->value);
    return c;
  }
  [[nodiscard]] at::Tensor buffer() const { return at::empty({std::min(chunk_, count_), vocabulary_}, hidden_.options()); }

  /// From the logits' gradients, in their place.
  void backward(const Chunk& c) {
    if (head_.weight->trainable()) gemm(c.logits, Transpose::kYes, c.u, Transpose::kNo, head_.weight->open_gradient(), 1.0, 1.0);
    if (head_.bias && head_.bias->trainable()) head_.bias->open_gradient().add_(c.logits.sum(0));
    at::Tensor du = product(c.logits, head_.weight->value);
    if (norm()) du = rms_norm_backward(du, c.x, head_.norm->value, c.rstd, norm_trains() ? head_.norm->open_gradient() : at::Tensor());
    d_rows_.narrow(0, c.begin, c.rows).copy_(du);
  }
  void finish() const {
    if (head_.weight->trainable()) head_.weight->gradient_added();
    if (head_.bias && head_.bias->trainable()) head_.bias->gradient_added();
    if (norm_trains()) head_.norm->gradient_added();
  }

  /// body(logits, first target, rows) over rows of a chunk on several threads.
  template <typename Body>
  void for_rows(const Chunk& c, const Body& body) const {
    float* logits = c.logits.data_ptr<float>();
    for_each_chunk(c.rows, 1, [&](int64_t, int64_t first, int64_t last) { body(logits + first * vocabulary_, c.begin + first, last - first); });
  }

 private:
  [[nodiscard]] bool norm() const { return head_.prologue == Prologue::kRmsNorm; }
  [[nodiscard]] bool norm_trains() const { return norm() && head_.norm->trainable(); }

  const at::Tensor& hidden_;
  const LinearSpec& head_;
  const Targets& targets_;
  int64_t count_, vocabulary_, chunk_;
  at::Tensor d_rows_;  // [N, D] gradient of the gathered hidden rows, or undefined
};

struct Result {
  at::Tensor log_probs;  // [N]
  at::Tensor d_rows;     // [N, D], or undefined
  double loss = 0;
};

Result weighted_log_probs(const at::Tensor& hidden, const LinearSpec& head, const Targets& targets, bool want_gradient) {
  HeadPass pass(hidden, head, targets, want_gradient);
  Result result{at::empty({static_cast<int64_t>(targets.ids.size())}, hidden.options()), pass.d_rows(), 0};
  float* log_probs = result.log_probs.data_ptr<float>();
  const at::Tensor buffer = pass.buffer();
  pass.for_chunks([&](int64_t begin, int64_t rows) {
    const auto chunk = pass.forward(begin, rows, buffer);
    pass.for_rows(chunk, [&](float* logits, int64_t first, int64_t n) {
      kernel_table().cross_entropy(logits, n, head.weight->value.size(0), targets.ids.data() + first, targets.weights.data() + first,
                                   want_gradient, log_probs + first);
    });
    if (want_gradient) pass.backward(chunk);
  });
  if (want_gradient) pass.finish();
  for (size_t i = 0; i < targets.ids.size(); ++i) result.loss -= double{targets.weights[i]} * log_probs[i];
  return result;
}

Result log_prob_loss(const at::Tensor& hidden, const LinearSpec& head, const Targets& targets, const LogProbLoss& loss, bool want_gradient) {
  HeadPass pass(hidden, head, targets, want_gradient);
  const auto count = targets.ids.size();
  const int64_t vocabulary = head.weight->value.size(0);
  const auto inverse_temperature = static_cast<float>(1.0 / loss.temperature);
  std::vector<SoftmaxRow> softmax(count);
  std::vector<HeadPass::Chunk> kept;
  const bool keep = want_gradient && pass.floats() <= loss.kept_logits;
  const at::Tensor buffer = keep ? at::Tensor() : pass.buffer();
  pass.for_chunks([&](int64_t begin, int64_t rows) {
    auto chunk = pass.forward(begin, rows, buffer);
    pass.for_rows(chunk, [&](const float* logits, int64_t first, int64_t n) {
      kernel_table().softmax_rows(logits, n, vocabulary, targets.ids.data() + first, inverse_temperature, softmax.data() + first);
    });
    if (keep) kept.push_back(std::move(chunk));
  });
  Result result{at::empty({static_cast<int64_t>(count)}, hidden.options()), pass.d_rows(), 0};
  float* log_probs = result.log_probs.data_ptr<float>();
  std::vector<float> entropies(count), weights(count, 0.0f);
  for (size_t i = 0; i < count; ++i) {
    log_probs[i] = softmax[i].log_prob;
    entropies[i] = softmax[i].entropy;
  }
  result.loss = loss.weigh(log_probs, entropies.data(), weights.data());
  if (!want_gradient) return result;
  size_t index = 0;
  pass.for_chunks([&](int64_t begin, int64_t rows) {
    const auto chunk = keep ? std::move(kept[index++]) : pass.forward(begin, rows, buffer);
    pass.for_rows(chunk, [&](float* logits, int64_t first, int64_t n) {
      kernel_table().softmax_gradient(logits, n, vocabulary, targets.ids.data() + first, weights.data() + first, inverse_temperature,
                                      softmax.data() + first);
    });
    pass.backward(chunk);
  });
  pass.finish();
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

namespace {

template <typename Run>
CrossEntropy make_loss(const at::Tensor& hidden, const Targets& targets, const Run& run) {
  const bool want_gradient = at::GradMode::is_enabled();
  Result result;
  {
    at::NoGradGuard no_grad;
    result = run(want_gradient);
  }
  if (!want_gradient) return {at::scalar_tensor(result.loss, hidden.options()), result.log_probs};
  return {LossFunction::apply(hidden, result.d_rows, targets.sources, result.loss), result.log_probs};
}

}  // namespace

CrossEntropy linear_cross_entropy(const at::Tensor& hidden, const LinearSpec& head, const Targets& targets) {
  TESSERA_CHECK(targets.ids.size() == targets.sources.size() && targets.ids.size() == targets.weights.size());
  return make_loss(hidden, targets, [&](bool want_gradient) { return weighted_log_probs(hidden, head, targets, want_gradient); });
}

CrossEntropy linear_log_prob_loss(const at::Tensor& hidden, const LinearSpec& head, const Targets& targets, const LogProbLoss& loss) {
  TESSERA_CHECK(targets.ids.size() == targets.sources.size() && loss.temperature > 0);
  return make_loss(hidden, targets, [&](bool want_gradient) { return log_prob_loss(hidden, head, targets, loss, want_gradient); });
}

}  // namespace tessera::kernels
