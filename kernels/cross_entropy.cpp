#include "kernels/cross_entropy.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/index_select.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstring>

#include "core/error.h"
#include "kernels/accelerator.h"
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
    if (accelerator_of(hidden) == nullptr) return;
    const auto there = [&](const auto& values, at::ScalarType type) {
      return accelerator_of(hidden)->upload(at::from_blob(const_cast<void*>(static_cast<const void*>(values.data())), {count_}, type));
    };
    device_sources_ = there(targets.sources, at::kLong);
    device_ids_ = there(targets.ids, at::kInt);
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
    Chunk c{begin, rows, gathered(begin, rows), {}, {}, {}};
    c.u = norm() ? rms_norm(c.x, head_.norm->value, head_.norm_eps, &c.rstd) : c.x;
    c.logits = buffer.defined() ? buffer.narrow(0, 0, rows) : at::empty({rows, vocabulary_}, hidden_.options());
    gemm(c.u, Transpose::kNo, head_.weight->value, Transpose::kYes, c.logits);
    if (head_.bias) c.logits.add_(head_.bias->value);
    return c;
  }
  /// Rows of hidden that predict targets.
  [[nodiscard]] at::Tensor gathered(int64_t begin, int64_t rows) const {
    if (device_sources_.defined()) return hidden_.index_select(0, device_sources_.narrow(0, begin, rows));
    const int64_t dim = hidden_.size(1);
    at::Tensor x = at::empty({rows, dim}, hidden_.options());
    const float* from = hidden_.const_data_ptr<float>();
    float* to = x.data_ptr<float>();
    for (int64_t i = 0; i < rows; ++i)
      std::memcpy(to + i * dim, from + targets_.sources[static_cast<size_t>(begin + i)] * dim, static_cast<size_t>(dim) * sizeof(float));
    return x;
  }
  /// Of the targets, where hidden lies on a device: ids int32, and sources int64.
  [[nodiscard]] const at::Tensor& device_ids() const { return device_ids_; }
  [[nodiscard]] const at::Tensor& device_sources() const { return device_sources_; }
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
  at::Tensor device_ids_, device_sources_;
};

struct Result {
  at::Tensor log_probs;  // [N]
  at::Tensor d_rows;     // [N, D], or undefined
  at::Tensor loss;       // a float32 scalar
  at::Tensor sources = {};  // [N] int64, on a device
};

at::Tensor scalar(double value, const at::Tensor& like) { return at::scalar_tensor(value, like.options().dtype(at::kFloat)); }

/// The same on a device, whose numbers the host does not see.
Result device_weighted_log_probs(HeadPass& pass, const at::Tensor& hidden, const Targets& targets, bool want_gradient) {
  const Accelerator& device = *accelerator_of(hidden);
  const auto count = static_cast<int64_t>(targets.ids.size());
  const at::Tensor weights = device.upload(at::from_blob(const_cast<float*>(targets.weights.data()), {count}, at::kFloat));
  Result result{at::empty({count}, hidden.options().dtype(at::kFloat)), pass.d_rows(), {}, pass.device_sources()};
  const at::Tensor buffer = pass.buffer();
  pass.for_chunks([&](int64_t begin, int64_t rows) {
    const auto chunk = pass.forward(begin, rows, buffer);
    device.cross_entropy(chunk.logits, pass.device_ids().narrow(0, begin, rows), weights.narrow(0, begin, rows), want_gradient,
                         result.log_probs.narrow(0, begin, rows));
    if (want_gradient) pass.backward(chunk);
  });
  result.loss = -weights.to(at::kDouble).mul(result.log_probs).sum().to(at::kFloat);
  return result;
}

Result weighted_log_probs(const at::Tensor& hidden, const LinearSpec& head, const Targets& targets, bool want_gradient) {
  HeadPass pass(hidden, head, targets, want_gradient);
  if (accelerator_of(hidden) != nullptr) {
    Result result = device_weighted_log_probs(pass, hidden, targets, want_gradient);
    if (want_gradient) pass.finish();
    return result;
  }
  Result result{at::empty({static_cast<int64_t>(targets.ids.size())}, hidden.options()), pass.d_rows(), {}};
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
  double loss = 0;
  for (size_t i = 0; i < targets.ids.size(); ++i) loss -= double{targets.weights[i]} * log_probs[i];
  result.loss = scalar(loss, hidden);
  return result;
}

/// The softmax of each row of the chunks, and then gradients from it.
class Softmax {
 public:
  Softmax(const HeadPass& pass, const at::Tensor& hidden, const LinearSpec& head, const Targets& targets, double temperature)
      : pass_(pass), targets_(targets), device_(accelerator_of(hidden)), vocabulary_(head.weight->value.size(0)),
        inverse_temperature_(static_cast<float>(1.0 / temperature)) {
    const size_t count = targets.ids.size();
    if (device_ == nullptr) {
      rows_.resize(count);
    } else {
      device_rows_ = at::empty({static_cast<int64_t>(count), 5}, hidden.options().dtype(at::kFloat));
    }
  }

  void add(const HeadPass::Chunk& chunk) {
    if (device_ != nullptr)
      return device_->softmax_rows(chunk.logits, part(pass_.device_ids(), chunk), inverse_temperature_, part(device_rows_, chunk));
    pass_.for_rows(chunk, [&](const float* logits, int64_t first, int64_t n) {
      kernel_table().softmax_rows(logits, n, vocabulary_, targets_.ids.data() + first, inverse_temperature_, rows_.data() + first);
    });
  }
  /// Of all rows, on the host.
  void read(float* log_probs, float* entropies) const {
    const at::Tensor host = device_ == nullptr ? at::Tensor() : device_rows_.cpu();
    const float* row = device_ == nullptr ? nullptr : host.const_data_ptr<float>();
    for (size_t i = 0; i < targets_.ids.size(); ++i) {
      log_probs[i] = row == nullptr ? rows_[i].log_prob : row[5 * i + 3];
      entropies[i] = row == nullptr ? rows_[i].entropy : row[5 * i + 4];
    }
  }
  void weigh(const std::vector<float>& weights) {
    weights_ = weights.data();
    if (device_ != nullptr)
      device_weights_ = device_->upload(at::from_blob(const_cast<float*>(weights_), {static_cast<int64_t>(weights.size())}, at::kFloat));
  }
  void gradient(const HeadPass::Chunk& chunk) const {
    if (device_ != nullptr)
      return device_->softmax_gradient(chunk.logits, part(pass_.device_ids(), chunk), part(device_weights_, chunk), inverse_temperature_, part(device_rows_, chunk));
    pass_.for_rows(chunk, [&](float* logits, int64_t first, int64_t n) {
      kernel_table().softmax_gradient(logits, n, vocabulary_, targets_.ids.data() + first, weights_ + first, inverse_temperature_, rows_.data() + first);
    });
  }

 private:
  static at::Tensor part(const at::Tensor& all, const HeadPass::Chunk& chunk) { return all.narrow(0, chunk.begin, chunk.rows); }

  const HeadPass& pass_;
  const Targets& targets_;
  const Accelerator* device_;
  int64_t vocabulary_;
  float inverse_temperature_;
  const float* weights_ = nullptr;
  std::vector<SoftmaxRow> rows_;
  at::Tensor device_rows_, device_weights_;
};

Result log_prob_loss(const at::Tensor& hidden, const LinearSpec& head, const Targets& targets, const LogProbLoss& loss, bool want_gradient) {
  HeadPass pass(hidden, head, targets, want_gradient);
  Softmax softmax(pass, hidden, head, targets, loss.temperature);
  const auto count = targets.ids.size();
  std::vector<HeadPass::Chunk> kept;
  const bool keep = want_gradient && pass.floats() <= loss.kept_logits;
  const at::Tensor buffer = keep ? at::Tensor() : pass.buffer();
  pass.for_chunks([&](int64_t begin, int64_t rows) {
    auto chunk = pass.forward(begin, rows, buffer);
    softmax.add(chunk);
    if (keep) kept.push_back(std::move(chunk));
  });
  Result result{at::empty({static_cast<int64_t>(count)}, at::kFloat), pass.d_rows(), {}, pass.device_sources()};
  std::vector<float> entropies(count), weights(count, 0.0f);
  softmax.read(result.log_probs.data_ptr<float>(), entropies.data());
  result.loss = scalar(loss.weigh(result.log_probs.const_data_ptr<float>(), entropies.data(), weights.data()), hidden);
  if (!want_gradient) return result;
  softmax.weigh(weights);
  size_t index = 0;
  pass.for_chunks([&](int64_t begin, int64_t rows) {
    const auto chunk = keep ? std::move(kept[index++]) : pass.forward(begin, rows, buffer);
    softmax.gradient(chunk);
    pass.backward(chunk);
  });
  pass.finish();
  return result;
}

struct LossFunction : torch::autograd::Function<LossFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& hidden, const Result& result, const std::vector<int64_t>& sources) {
    ctx->save_for_backward({result.d_rows, result.sources});
    if (!result.sources.defined()) ctx->saved_data["sources"] = sources;
    ctx->saved_data["tokens"] = hidden.size(0);
    return result.loss;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx, torch::autograd::variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor& d_rows = saved[0];
    const int64_t dim = d_rows.size(1);
    at::Tensor d_hidden = at::zeros({ctx->saved_data["tokens"].toInt(), dim}, d_rows.options());
    if (const Accelerator* device = accelerator_of(d_rows)) {
      device->add_rows(d_rows, saved[1], d_hidden);
      return {d_hidden, at::Tensor(), at::Tensor()};
    }
    TESSERA_CHECK(gradients[0].item<float>() == 1.0f, "the loss's gradient must be 1: weights carry every factor");
    const auto sources = ctx->saved_data["sources"].toIntVector();
    const float* from = d_rows.const_data_ptr<float>();
    float* to = d_hidden.data_ptr<float>();
    for (size_t i = 0; i < sources.size(); ++i)
      for (int64_t j = 0; j < dim; ++j) to[sources[i] * dim + j] += from[static_cast<int64_t>(i) * dim + j];
    return {d_hidden, at::Tensor(), at::Tensor()};
  }
};

template <typename Run>
CrossEntropy make_loss(const at::Tensor& hidden, const Targets& targets, const Run& run) {
  const bool want_gradient = at::GradMode::is_enabled();
  Result result;
  {
    at::NoGradGuard no_grad;
    result = run(want_gradient);
  }
  if (!want_gradient) return {result.loss, result.log_probs};
  return {LossFunction::apply(hidden, result, targets.sources), result.log_probs};
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
