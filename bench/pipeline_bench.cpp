// A pipeline's bubble on real ranks against the simulator's: a model of equal layers trained by each schedule, the share of
// a step that the busiest rank waits, and what simulate() makes of the measured costs of the actions.
//   mpirun -np 2 build/bin/pipeline_bench [micro-batches]
#include <ATen/Parallel.h>
#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <numeric>

#include "parallel/mpi_communicator.h"
#include "parallel/pipeline_check.h"
#include "trainer/stage_run.h"

namespace {

using namespace tessera;
using Clock = std::chrono::steady_clock;

constexpr int kSteps = 5;
constexpr int64_t kLayers = 16, kDim = 256, kTokens = 512, kVocabulary = 64;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

/// Times the actions of another.
class Timed final : public parallel::StageWork {
  template <typename Body>
  auto timed(int kind, int32_t stage, const Body& body) {
    const auto begin = Clock::now();
    auto result = body();
    seconds_[kind][stage] += seconds_since(begin);
    counts_[kind][stage] += 1;
    return result;
  }

 public:
  Timed(parallel::StageWork& work, int32_t stages) : work_(work), seconds_(torch::zeros({3, stages}, torch::kDouble)), counts_(torch::zeros_like(seconds_)) {}
  std::vector<int64_t> boundary_shape(int32_t microbatch) const override { return work_.boundary_shape(microbatch); }
  at::Tensor forward(int32_t stage, int32_t microbatch, at::Tensor input) override {
    return timed(0, stage, [&] { return work_.forward(stage, microbatch, input); });
  }
  at::Tensor backward(int32_t stage, int32_t microbatch, at::Tensor gradient, bool weights_later) override {
    return timed(1, stage, [&] { return work_.backward(stage, microbatch, gradient, weights_later); });
  }
  void backward_weights(int32_t stage, int32_t microbatch) override {
    timed(2, stage, [&] { return work_.backward_weights(stage, microbatch), 0; });
  }
  [[nodiscard]] at::Tensor& seconds() { return seconds_; }
  [[nodiscard]] at::Tensor& counts() { return counts_; }

 private:
  parallel::StageWork& work_;
  at::Tensor seconds_, counts_;  // [forward, backward, weights; stages]
};

data::MicroBatch random_batch(int64_t seed) {
  data::MicroBatch batch;
  batch.segments.push_back({.start = 0, .length = kTokens});
  for (int64_t i = 0; i < kTokens; ++i) {
    batch.tokens.push_back(static_cast<int32_t>((i * 7 + seed * 13) % kVocabulary));
    batch.positions.push_back(static_cast<int32_t>(i));
    if (i == 0) continue;
    batch.target_sources.push_back(i - 1);
    batch.targets.push_back(batch.tokens.back());
  }
  return batch;
}

void measure(parallel::Communicator& world, const std::string& name, int32_t microbatches) {
  const nlohmann::json config = {{"model_type", "llama"}, {"vocab_size", kVocabulary}, {"hidden_size", kDim}, {"intermediate_size", 3 * kDim},
                                 {"num_hidden_layers", kLayers}, {"num_attention_heads", 4}, {"num_key_value_heads", 4},
                                 {"max_position_embeddings", kTokens}, {"rms_norm_eps", 1e-5}, {"initializer_range", 0.02}, {"tie_word_embeddings", false}};
  const parallel::ParallelConfig layout{.pp = world.size(), .pipeline_schedule = name};
  const parallel::Mesh mesh(world, layout);
  trainer::Stages stages(model::ModelConfig::from_json(config, "bench"), mesh, layout, false);
  stages.make_trainable(false);
  for (auto* stage : stages.models()) stage->initialize(1);
  std::vector<data::MicroBatch> batches;
  for (int32_t i = 0; i < microbatches; ++i) batches.push_back(random_batch(i));
  const auto& plan = stages.schedule(microbatches);
  trainer::LossTerms terms;
  terms.target_weight = 1e-4f;
  parallel::PipelineRuntime runtime(mesh.axis("pp"));
  at::Tensor seconds = torch::zeros({3, plan.num_stages}, torch::kDouble), counts = torch::zeros_like(seconds);
  double wall = 0, busy = 0;
  for (int step = -1; step < kSteps; ++step) {
    for (auto* buckets : stages.buckets()) buckets->zero_gradients();
    trainer::StageRun run(stages.stages(), batches, terms, true, {kDim});
    run.expect(plan.ranks[static_cast<size_t>(world.rank())]);
    Timed timed(run, plan.num_stages);
    world.barrier();
    const auto begin = Clock::now();
    runtime.run(plan, timed);
    if (step < 0) continue;
    wall += seconds_since(begin);
    busy += timed.seconds().sum().item<double>();
    seconds += timed.seconds();
    counts += timed.counts();
  }
  at::Tensor shares = torch::tensor({1 - busy / wall}, torch::kDouble);
  world.all_reduce(shares, parallel::ReduceOp::kMax)->wait();
  world.all_reduce(seconds)->wait();
  world.all_reduce(counts)->wait();
  if (world.rank() != 0) return;
  const at::Tensor mean = seconds / counts.clamp_min(1);  // [3, stages]
  const double all = mean.sum().item<double>() / static_cast<double>(plan.num_stages);
  const auto part = [&](int kind) { return mean[kind].mean().item<double>(); };
  parallel::ActionCosts costs{.forward = part(0), .backward_input = part(1), .backward_weight = part(2)};
  for (int32_t s = 0; s < plan.num_stages; ++s) costs.stage_scale.push_back(mean.select(1, s).sum().item<double>() / all);
  const auto simulated = parallel::simulate(plan, costs);
  std::printf("%-12s m %2d: rank waits %5.1f %% of a step, simulated %5.1f %%; forward %.1f ms, backward %.1f, weights %.1f\n", name.c_str(),
              microbatches, 100 * shares.item<double>(), 100 * simulated.bubble / simulated.makespan, 1e3 * costs.forward,
              1e3 * costs.backward_input, 1e3 * costs.backward_weight);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  at::set_num_threads(1);
  parallel::MpiContext context({.timeout_seconds = 60});
  const auto world = context.world();
  const int32_t microbatches = argc > 1 ? std::atoi(argv[1]) : 8;
  for (const auto& name : parallel::pipeline_schedule_names()) measure(*world, name, microbatches);
  return 0;
}
