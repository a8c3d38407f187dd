#include "pipeline/sampling.h"

#include <ATen/ops/tensor.h>

#include <algorithm>

#include "core/clock.h"
#include "core/error.h"
#include "core/file.h"
#include "core/progress.h"
#include "data/unicode.h"
#include "model/hf_folder.h"
#include "parallel/text_exchange.h"

namespace tessera::pipeline {

namespace {

using nlohmann::json;

constexpr int64_t kCompletionsAPart = 4096;  // whatever the ranks: parts of one layout serve another

/// What rank 0 finds, on all ranks.
bool agree(parallel::Communicator& world, bool value) { return parallel::broadcast_text(world, value ? "1" : "0") == "1"; }

}  // namespace

Sampler::Sampler(SamplingJob job, parallel::Communicator& world) : job_(std::move(job)), world_(world) {
  const auto busy = world_.announce("reading prompts");
  const auto folder = job_.model.tokenizer_folder();
  tokenizer_ = std::make_unique<data::Tokenizer>(data::Tokenizer::load(folder));
  chat_template_ = data::ChatTemplate::load_if_present(folder);
  const auto model = job_.model.load_config();
  const data::PromptReader reader{*tokenizer_, chat_template_ ? &*chat_template_ : nullptr, model.vocab_size};
  prompts_ = std::make_unique<rl::Prompts>(job_.prompts, reader, model.max_position_embeddings - 1, job_.seed);
}

Sampler::~Sampler() = default;

void Sampler::load() {
  if (maker_) return;
  const auto busy = world_.announce("loading the model");
  const auto model = job_.model.load_config();
  mesh_ = std::make_unique<parallel::Mesh>(world_, job_.parallel);
  stages_ = std::make_unique<trainer::Stages>(model, *mesh_, job_.parallel, false);
  if (job_.model.path.empty()) {
    for (auto* stage : stages_->models()) stage->initialize(job_.seed);
  } else {
    model::load_weights(stages_->models(), job_.model.path, world_);
  }
  auto stop_ids = tokenizer_->stop_ids().empty() ? model.eos_token_ids : tokenizer_->stop_ids();
  job_.rl.advantage = "batch";  // of no consequence here, and defined for single completions
  maker_ = std::make_unique<rl::RolloutMaker>(job_.rl, *tokenizer_, std::move(stop_ids), job_.seed);
}

std::string Sampler::part(int64_t first_prompt, int64_t num_prompts) {
  const auto start = Clock::now();
  load();
  const rl::Phase phase = maker_->make(rl::policy_of(*stages_, *mesh_), *prompts_, first_prompt, num_prompts, false);
  json mine = json::array();
  if (mesh_->coordinate("pp") == 0)
    for (const auto& r : phase.rollouts) mine.push_back({r.prompt, r.index, data::replace_invalid_utf8(maker_->text_of(r)), r.reward, r.usable, r.stopped});
  json all = json::array();
  for (const auto& text : parallel::all_gather_text(world_, mine.dump()))
    for (auto& candidate : json::parse(text)) all.push_back(std::move(candidate));
  return json{{"prompts", prompts_->hash()}, {"seconds", seconds_since(start)}, {"candidates", std::move(all)}}.dump();
}

Sampler::Candidates Sampler::collect(const std::filesystem::path& folder, const std::string& title, bool show_progress,
                                     const std::function<bool()>& stop_requested) {
  Candidates result;
  const bool first = world_.rank() == 0;
  const int64_t group = job_.rl.rollouts_per_prompt, step = std::max<int64_t>(1, kCompletionsAPart / group);
  if (first) make_directories(folder);
  Progress progress(title, prompts_->size(), "prompts", show_progress && first);
  for (int64_t begin = 0; begin < prompts_->size(); begin += step) {
    const int64_t end = std::min(begin + step, prompts_->size());
    const auto path = folder / detail::concat("prompts-", begin, ".json");
    if (!agree(world_, first && std::filesystem::exists(path))) {
      at::Tensor stop = at::tensor({stop_requested() ? 1 : 0}, at::kLong);
      world_.all_reduce(stop, parallel::ReduceOp::kMax, "stop")->wait();
      if (stop.item<int64_t>() > 0) {
        result.stopped = true;
        return result;
      }
      const std::string text = part(begin, end - begin);
      if (first) write_file_atomically(path, text);
    }
    progress.update(end);
    if (!first) continue;
    const json read = json::parse(read_text_file(path));
    if (read.at("prompts") != prompts_->hash())
      throw ConfigError(folder.string() + " holds completions of other prompts: data.train has changed; delete the stage's folder to make them anew");
    result.seconds += read.at("seconds").get<double>();
    for (const auto& c : read.at("candidates")) result.all.push_back({c[0], c[1], c[2], c[3], c[4], c[5]});
  }
  std::sort(result.all.begin(), result.all.end(), [](const Candidate& a, const Candidate& b) { return std::pair(a.prompt, a.index) < std::pair(b.prompt, b.index); });
  return result;
}

Sampler::Evaluation Sampler::evaluate(const std::string& title, bool show_progress) {
  load();
  Progress progress(title, prompts_->size(), "prompts", show_progress && world_.rank() == 0);
  const auto busy = world_.announce("evaluating");
  const auto s = maker_->make(rl::policy_of(*stages_, *mesh_), *prompts_, 0, prompts_->size(), false).statistics;
  progress.update(prompts_->size());
  const auto usable = static_cast<double>(std::max<int64_t>(1, s.usable));
  return {s.reward * usable / static_cast<double>(s.rollouts), s.length, s.rollouts};
}

}  // namespace tessera::pipeline
