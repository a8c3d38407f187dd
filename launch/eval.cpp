#include <iostream>

#include "core/error.h"
#include "core/log.h"
#include "core/progress.h"
#include "data/tasks/task.h"
#include "inference/engine.h"
#include "launch/eval_report.h"
#include "launch/generation_options.h"
#include "recipes/recipe.h"
#include "rl/rewards/reward.h"

namespace tessera::launch {

namespace {

using data::Json;

struct EvalOptions {
  ModelOptions model;
  std::string input, output, recipe;
  std::vector<std::string> rewards;
  inference::SamplingConfig sampling{.temperature = 0, .max_new_tokens = 128};
  int64_t samples = 1, batch = 32;
};

/// Those asked for; without, whether the answer is right.
std::vector<rl::RewardConfig> rewards_of(const EvalOptions& options) {
  std::vector<rl::RewardConfig> rewards;
  for (const auto& name : options.rewards) rewards.push_back({.name = name});
  if (!options.recipe.empty()) {
    const auto recipe = recipes::load_recipe(options.recipe, {});
    if (!recipe.rl) throw ConfigError(options.recipe + " has no section rl, whose rewards --recipe asks for");
    rewards = recipe.rl->rewards;
  }
  if (rewards.empty()) rewards.push_back({.name = "exact"});
  for (const auto& reward : rewards) reward.validate();
  return rewards;
}

bool judges_answers_alone(const EvalOptions& options) { return options.rewards.empty() && options.recipe.empty(); }

class Evaluation final {
 public:
  Evaluation(const App& app, const EvalOptions& options, const std::vector<JsonLine>& lines)
      : options_(options), lines_(lines), loaded_(load_for_inference(app, options.model)), rewards_(rewards_of(options)) {}

  /// A line of JSON for each completion of the problems [begin, end).
  std::vector<std::string> complete(int64_t begin, int64_t end, Progress& progress) {
    std::vector<inference::Request> requests;
    for (int64_t i = begin; i < end; ++i) {
      const auto& line = lines_[static_cast<size_t>(i)];
      requests.push_back({prompt_tokens(loaded_.reader().question_of(line.value, line.where), loaded_, "prompt", true, line.where), {}});
      for (int64_t s = 0; s < options_.samples; ++s) requests.back().samples.push_back(static_cast<uint64_t>(i * options_.samples + s));
    }
    auto sampling = options_.sampling;
    sampling.stop_ids = stop_ids(loaded_);
    inference::Engine engine(*loaded_.model, {.max_batch = options_.batch});
    return judge(begin, requests, engine.generate(requests, sampling, [&](int64_t done) { progress.update(done); }));
  }

  /// From the lines of all problems.
  [[nodiscard]] Json summary(const std::vector<std::string>& results) const {
    std::vector<Judgement> judgements;
    for (const auto& text : results) {
      const Json r = Json::parse(text);
      judgements.push_back({r["reward"].get<double>(), r["parts"].get<std::vector<double>>(), r.contains("error"), r["finish_reason"] == "stop",
                            r["extracted"].get<std::string>()});
    }
    return summarize(judgements, options_.samples, rewards_.names(), judges_answers_alone(options_));
  }

 private:
  std::vector<std::string> judge(int64_t begin, const std::vector<inference::Request>& requests, const std::vector<inference::Completion>& completions) {
    std::vector<nlohmann::json> samples;
    std::vector<std::string> prompts, texts;
    for (size_t r = 0; r < requests.size(); ++r) {
      samples.push_back(nlohmann::json::parse(lines_[static_cast<size_t>(begin) + r].value.dump()));
      prompts.push_back(loaded_.tokenizer.decode(requests[r].prompt));
    }
    for (const auto& completion : completions) texts.push_back(loaded_.tokenizer.decode(completion.tokens));
    std::vector<rl::RewardInput> inputs;
    for (size_t i = 0; i < completions.size(); ++i) {
      const size_t r = i / static_cast<size_t>(options_.samples);
      inputs.push_back({&samples[r], prompts[r], texts[i], static_cast<int64_t>(completions[i].tokens.size()), completions[i].finish_reason == "stop",
                        data::opens_thinking(prompts[r])});
    }
    const auto rewards = rewards_.score(inputs);
    std::vector<std::string> results;
    for (size_t i = 0; i < completions.size(); ++i) {
      const auto problem = static_cast<size_t>(begin) + i / static_cast<size_t>(options_.samples);
      Json line = {{"reward", rewards[i].total}, {"parts", rewards[i].parts}};
      if (judges_answers_alone(options_)) line["correct"] = rewards[i].total >= 1;
      if (lines_[problem].value.contains("answer")) line["answer"] = lines_[problem].value["answer"];
      line["extracted"] = data::extract_answer(texts[i]);
      line["text"] = texts[i];
      line["finish_reason"] = completions[i].finish_reason;
      if (options_.samples > 1) line["problem"] = problem;
      if (rewards[i].failed) line["error"] = "a reward failed";
      results.push_back(line.dump());
    }
    for (size_t k = 0; k < rewards_.names().size(); ++k)
      if (const auto& f = rewards_.failures()[k]; f.count > 0)
        log::warn("reward ", rewards_.names()[k], " failed for ", f.count, " completions; the last: ", f.last_error);
    return results;
  }

  const EvalOptions& options_;
  const std::vector<JsonLine>& lines_;
  LoadedModel loaded_;
  rl::RewardSet rewards_;
};

}  // namespace

Command eval_command(CLI::App& cli) {
  auto options = std::make_shared<EvalOptions>();
  add_model_options(cli, options->model);
  cli.add_option("--input", options->input, "JSONL with messages or prompt, and answer")->required();
  cli.add_option("--output", options->output, "JSONL with each completion and what it is worth");
  auto* rewards = cli.add_option("--reward", options->rewards, "kind of reward instead of the answer's being right (numeric, format, ..), several times");
  cli.add_option("--recipe", options->recipe, "recipe of task grpo, whose rewards judge")->excludes(rewards);
  cli.add_option("--samples", options->samples, "completions of each problem; with a temperature, for mean, pass@k and majority")
      ->capture_default_str()->check(CLI::Range(1, 1024));
  add_sampling_options(cli, options->sampling, options->batch);
  return [options](App& app) {
    options->sampling.validate();
    if (options->samples > 1 && options->sampling.temperature == 0) throw ConfigError("--samples above 1 needs --temperature above 0: greedy completions are all the same");
    const auto lines = read_jsonl(options->input);
    for (const auto& line : lines)
      if (judges_answers_alone(*options) && (!line.value.contains("answer") || !line.value["answer"].is_string()))
        throw ConfigError(line.where + ": needs 'answer', a string");
    Evaluation evaluation(app, *options, lines);
    const auto results = share_out(app, static_cast<int64_t>(lines.size()), [&](int64_t begin, int64_t end) {
      Progress progress("evaluating", (end - begin) * options->samples, "completions", app.first() && !app.quiet);
      auto texts = evaluation.complete(begin, end, progress);
      progress.finish();
      return texts;
    });
    if (!app.first()) return;
    if (!options->output.empty()) write_lines(options->output, results);
    std::cout << evaluation.summary(results).dump() << std::endl;
  };
}

}  // namespace tessera::launch
