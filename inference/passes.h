// The forward passes of generation, wherever the model lies: on a pipeline each rank runs its stages and hands the residual stream
// on; ranks that share out experts pass through the layers together.
#pragma once

#include <vector>

#include "inference/sampler.h"
#include "model/causal_lm.h"
#include "parallel/communicator.h"

namespace tessera::inference {

/// Prompt tokens that go through the model at a time.
constexpr int64_t kTokensAtOnce = 2048;

/// How a model lies on the ranks that generate with it. Communicators may be null: a group of one.
struct ModelLayout {
  struct Stage {
    model::CausalLM* model = nullptr;  // null: on another rank
    int holder = 0;                    // rank within `pipeline`
  };
  std::vector<Stage> stages;                       // of the whole pipeline, in order
  parallel::Communicator* pipeline = nullptr;      // its ranks generate the same sequences
  parallel::Communicator* experts = nullptr;       // its ranks generate different ones, pass by pass together

  [[nodiscard]] bool alone() const;  // all of the model is here, and no rank waits for us
};

/// One segment a sequence, laid end to end.
struct Flat {
  std::vector<int32_t> tokens, positions;
  std::vector<Segment> segments;
  void add(const std::vector<int32_t>& sequence);
};

/// A view of the values, which must outlive it.
[[nodiscard]] at::Tensor int_tensor(std::vector<int32_t>& values);

class Passes final {
 public:
  /// `drafts`: the cache has room for the first MTP module; only where the model is alone. `records`: see choices().
  explicit Passes(ModelLayout layout, bool drafts = false, bool records = false);

  [[nodiscard]] model::KvCache& cache() { return cache_; }
  [[nodiscard]] const model::ModelConfig& config() const;
  /// The model where it is alone.
  [[nodiscard]] model::CausalLM& model() const { return *layout_.stages.front().model; }
  /// Ranks that share experts with this one wait for its passes, empty ones too.
  [[nodiscard]] bool in_step() const;
  /// Whether something is so on any rank that shares experts with this one.
  [[nodiscard]] std::vector<bool> any(const std::vector<bool>& here) const;

  /// The residual stream behind the last layer on the rank that holds it, elsewhere undefined; see CausalLM. The lengths in the
  /// cache are set.
  at::Tensor prefill(Flat& flat, const std::vector<int64_t>& sequences);
  at::Tensor decode(std::vector<int32_t>& tokens, const std::vector<int64_t>& sequences);

  /// The experts that the last pass chose, of the layers here; empty unless they are recorded.
  [[nodiscard]] const moe::LayerChoices& choices() const { return choices_; }

  struct Question {
    at::Tensor logits;  // [V]; only where the last layer is
    uint64_t sample = 0;
    uint32_t position = 0;
  };
  /// A draw for each; all ranks of the pipeline get the result.
  std::vector<Draw> draw(const std::vector<Question>& questions, const SamplingConfig& sampling);
  [[nodiscard]] bool has_last() const { return layout_.stages.back().model != nullptr; }
  /// Of rows of the residual stream, where the last layer is; elsewhere undefined.
  [[nodiscard]] at::Tensor logits(const at::Tensor& hidden) const;
  /// Rows [indices] of the residual stream.
  [[nodiscard]] static at::Tensor rows(const at::Tensor& stream, const std::vector<int64_t>& indices);

 private:
  /// Draws on the device that the logits lie on, for all questions at once.
  static void draw_there(const std::vector<Question>& questions, const SamplingConfig& sampling, std::vector<Draw>& draws);
  template <typename Run>
  at::Tensor through_stages(const at::Tensor& tokens, const Run& run);

  ModelLayout layout_;
  model::KvCache cache_;
  bool records_;
  moe::LayerChoices choices_;
};

}  // namespace tessera::inference
