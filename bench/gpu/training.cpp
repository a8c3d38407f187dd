#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>

#include "bench/gpu/measure.h"
#include "kernels/fp8/recipe.h"
#include "trainer/optimizer.h"
#include "trainer/stage_run.h"
#include "trainer/stages.h"

namespace tessera::bench {

namespace {

using nlohmann::json;

struct Shape {
  const char* name;
  json config;
  int64_t tokens;         // of a sequence; one a micro-batch
  int64_t micro_batches;
  model::Recompute recompute;
};

json llama(int64_t hidden, int64_t layers, int64_t heads, int64_t kv_heads, int64_t inner, int64_t vocabulary, bool tied) {
  return {{"model_type", "llama"}, {"vocab_size", vocabulary}, {"hidden_size", hidden}, {"intermediate_size", inner}, {"num_hidden_layers", layers},
          {"num_attention_heads", heads}, {"num_key_value_heads", kv_heads}, {"max_position_embeddings", 32768}, {"rms_norm_eps", 1e-6},
          {"initializer_range", 0.02}, {"tie_word_embeddings", tied}};
}

/// The sizes of OLMoE-1B-7B: 1.3 of 6.9 billion parameters are active.
json olmoe() {
  auto config = llama(2048, 16, 16, 16, 1024, 50304, false);
  config.update({{"model_type", "qwen3_moe"}, {"head_dim", 128}, {"num_experts", 64}, {"num_experts_per_tok", 8}, {"moe_intermediate_size", 1024},
                 {"norm_topk_prob", false}, {"decoder_sparse_step", 1}, {"mlp_only_layers", json::array()}});
  return config;
}

/// What one of eight ranks holds of four layers of DeepSeek-V3: 32 of the experts, all of which its tokens choose from.
json deepseek_slice(bool small) {
  json config = {{"model_type", "deepseek_v3"}, {"vocab_size", 129280}, {"hidden_size", 7168}, {"intermediate_size", 18432}, {"moe_intermediate_size", 2048},
                 {"num_hidden_layers", 4}, {"num_attention_heads", 128}, {"num_key_value_heads", 128}, {"max_position_embeddings", 32768},
                 {"q_lora_rank", 1536}, {"kv_lora_rank", 512}, {"qk_nope_head_dim", 128}, {"qk_rope_head_dim", 64}, {"v_head_dim", 128},
                 {"n_routed_experts", 32}, {"n_shared_experts", 1}, {"num_experts_per_tok", 8}, {"n_group", 8}, {"topk_group", 4},
                 {"first_k_dense_replace", 1}, {"norm_topk_prob", true}, {"routed_scaling_factor", 2.5}, {"scoring_func", "sigmoid"},
                 {"topk_method", "noaux_tc"}, {"num_nextn_predict_layers", 0}, {"rms_norm_eps", 1e-6}, {"initializer_range", 0.02},
                 {"rope_theta", 10000.0}, {"tie_word_embeddings", false}};
  if (small)
    config.update({{"vocab_size", 512}, {"hidden_size", 128}, {"intermediate_size", 256}, {"moe_intermediate_size", 64}, {"num_hidden_layers", 2},
                   {"num_attention_heads", 4}, {"num_key_value_heads", 4}, {"q_lora_rank", 64}, {"kv_lora_rank", 32}});
  return config;
}

std::vector<Shape> shapes(bool small) {
  using model::Recompute;
  if (small)
    return {{"dense, small", llama(128, 2, 4, 2, 256, 512, true), 64, 2, Recompute::kNone},
            {"DeepSeek-V3 slice, small", deepseek_slice(true), 64, 2, Recompute::kFull}};
  return {{"dense 1.5 B", llama(1536, 28, 12, 2, 8960, 151936, true), 8192, 4, Recompute::kNone},
          {"dense 7 B shape", llama(4096, 32, 32, 32, 11008, 32000, false), 4096, 8, Recompute::kFull},
          {"OLMoE shape, 1.3 of 6.9 B", olmoe(), 4096, 8, Recompute::kFull},
          {"DeepSeek-V3 slice, 4 layers, 32 experts", deepseek_slice(false), 4096, 4, Recompute::kFull}};
}

/// Random weights without a generator's time: one block of normal numbers, again and again. Norms are 1.
void fill(const trainer::Stages& stages) {
  const at::Tensor block = at::randn({(int64_t{1} << 20) + 7}, at::kFloat).mul_(0.02);
  int64_t next = 0;
  for (const auto& weight : stages.weights(false)) {
    at::Tensor values = weight.view().view({-1});
    if (weight.shape.size() == 1) {
      values.fill_(weight.buffer ? 0.0 : 1.0);
      continue;
    }
    for (int64_t begin = 0; begin < values.numel();) {
      const int64_t count = std::min(values.numel() - begin, block.numel() - next);
      values.narrow(0, begin, count).copy_(block.narrow(0, next, count));
      begin += count;
      next = (next + count) % block.numel();
    }
  }
}

data::StepBatch random_step(const Shape& shape) {
  data::StepBatch step;
  const int64_t vocabulary = shape.config.at("vocab_size");
  for (int64_t m = 0; m < shape.micro_batches; ++m) {
    data::Row row;
    const at::Tensor tokens = at::randint(0, vocabulary, {shape.tokens}, at::kInt);
    row.tokens.assign(tokens.const_data_ptr<int32_t>(), tokens.const_data_ptr<int32_t>() + shape.tokens);
    row.loss_mask.assign(static_cast<size_t>(shape.tokens), 1);
    row.loss_mask[0] = 0;
    row.segments = {{0, shape.tokens, 0, -1}};
    step.micro_batches.push_back(data::make_micro_batch({row}));
  }
  return step;
}

/// Floating-point operations of a token, forward and backward: of all weights that it meets but the embedding, and of causal attention.
double operations_of_a_token(const model::ModelConfig& c, const Shape& shape, const trainer::Stages& stages) {
  double weights = 0;
  for (const auto& weight : stages.weights(false)) {
    if (weight.shape.size() != 2 || (weight.name == "model.embed_tokens.weight" && !c.tie_word_embeddings)) continue;
    const bool routed = weight.name.find(".experts.") != std::string::npos;
    const double share = routed ? static_cast<double>(c.moe.experts_per_token) / static_cast<double>(c.moe.num_experts) : 1.0;
    weights += share * static_cast<double>(weight.numel());
  }
  const bool latent = c.latent.kv_lora_rank > 0;
  const double width = latent ? static_cast<double>(c.latent.qk_head_dim() + c.latent.v_head_dim) : 2.0 * static_cast<double>(c.head_dim);
  const double keys = static_cast<double>(shape.tokens) / 2;
  return 3 * (2 * weights + 2 * keys * width * static_cast<double>(c.num_attention_heads * c.num_hidden_layers));
}

struct Figures {
  double seconds = 0, host_seconds = 0, operations = 0;
  int64_t tokens = 0, peak_bytes = 0;
};

Figures train(const Place& place, const Shape& shape, const char* fp8) {
  const at::AutoGradMode with_grad(true);
  const auto world = parallel::make_self_communicator();
  const parallel::ParallelConfig alone;
  const parallel::Mesh mesh(*world, alone);
  const auto config = model::ModelConfig::from_json(shape.config, shape.name);
  trainer::Stages stages(config, mesh, alone, false);
  for (auto* model : stages.models()) {
    model->set_recompute(shape.recompute);
    if (fp8 != nullptr) model->use_fp8(*kernels::fp8::find_recipe(fp8));
  }
  {
    const at::NoGradGuard no_grad;
    fill(stages);
  }
  stages.make_trainable(false, at::kBFloat16, place.device);
  trainer::OptimizerConfig settings;
  settings.moments = "bfloat16";
  trainer::AdamW optimizer(stages.buckets(), stages.weights(false), settings, 1);
  const data::StepBatch batch = random_step(shape);
  const trainer::LossTerms terms{.target_weight = 1.0f / static_cast<float>(shape.tokens * shape.micro_batches), .mtp_weights = {}, .routing = {}};
  Figures figures{.operations = operations_of_a_token(config, shape, stages), .tokens = shape.tokens * shape.micro_batches};
  const int steps = place.small ? 3 : 8, warm = place.small ? 1 : 3;
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  const auto& plan = stages.schedule(static_cast<int32_t>(shape.micro_batches));
  parallel::PipelineRuntime runtime(mesh.axis("pp"));
  Clock::time_point begin;
  for (int step = 0; step < steps; ++step) {
    if (step == warm) {
      place.accelerator().synchronize();
      begin = Clock::now();
      figures.host_seconds = 0;
    }
    for (auto* buckets : stages.buckets()) buckets->zero_gradients();
    const auto issuing = Clock::now();
    trainer::StageRun run(stages.stages(), batch.micro_batches, terms, true, {config.hidden_size, at::TensorOptions(at::kBFloat16).device(place.device)});
    run.expect(plan.ranks[0]);
    runtime.run(plan, run);
    figures.host_seconds += since(issuing);  // where this is less than the step, the device never waits for the host
    (void)run.loss();
    for (auto* buckets : stages.buckets()) buckets->finish_reduction();
    (void)optimizer.local_sum_of_squares();
    optimizer.step(1e-4, step + 1, 1.0);
  }
  place.accelerator().synchronize();
  figures.seconds = since(begin) / (steps - warm);
  figures.host_seconds /= steps - warm;
  figures.peak_bytes = place.accelerator().peak_bytes();
  return figures;
}

}  // namespace

void measure_training(const Place& place) {
  const at::Tensor a = place.random(place.small ? at::IntArrayRef{256, 256} : at::IntArrayRef{8192, 8192});
  const double n = static_cast<double>(a.size(0)), mm = 2 * n * n * n / seconds_of(place, [&] { (void)at::mm(a, a); });
  constexpr double kPeak = 989e12;  // bfloat16, dense, of an H100 or H200 SXM
  std::printf("\n### Training; a product of %ld^3 in bfloat16 makes %.0f TFLOP/s\n\n", static_cast<long>(a.size(0)), mm * 1e-12);
  row({"model", "products", "tokens/s", "TFLOP/s", "MFU of 989", "of the product", "ms a step", "of them issuing", "peak GiB"});
  row({"---", "---", "---", "---", "---", "---", "---", "---", "---"});
  for (const Shape& shape : shapes(place.small)) {
    for (const char* fp8 : {static_cast<const char*>(nullptr), "blockwise"}) {
      const Figures f = train(place, shape, fp8);
      const double rate = static_cast<double>(f.tokens) / f.seconds, flops = rate * f.operations;
      row({shape.name, fp8 == nullptr ? "bfloat16" : "FP8", number(rate, 0), number(flops * 1e-12), number(100 * flops / kPeak) + " %",
           number(100 * flops / mm, 0) + " %", number(1e3 * f.seconds), number(1e3 * f.host_seconds), number(static_cast<double>(f.peak_bytes) / (1 << 30))});
    }
  }
}

}  // namespace tessera::bench
