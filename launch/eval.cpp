#include <cmath>
#include <iostream>

#include "core/error.h"
#include "core/log.h"
#include "core/progress.h"
#include "data/tasks/task.h"
#include "inference/engine.h"
#include "launch/generation_options.h"

namespace tessera::launch {

namespace {

using data::Json;

/// 95 % interval of a share (Wilson score).
std::pair<double, double> confidence_interval(double correct, double count) {
  constexpr double z = 1.959964;
  const double share = correct / count, denominator = 1 + z * z / count;
  const double centre = (share + z * z / (2 * count)) / denominator;
  const double half = z * std::sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / denominator;
  return {centre - half, centre + half};
}

}  // namespace

Command eval_command(CLI::App& cli) {
  struct Options {
    std::string model, input, output;
    inference::SamplingConfig sampling{.temperature = 0, .max_new_tokens = 128};
    int64_t batch = 32;
  };
  auto options = std::make_shared<Options>();
  cli.add_option("--model", options->model, "Hugging Face or PEFT folder")->required();
  cli.add_option("--input", options->input, "JSONL with messages or prompt, and answer")->required();
  cli.add_option("--output", options->output, "JSONL with each completion and whether it is right");
  add_sampling_options(cli, options->sampling, options->batch);
  return [options](App& app) {
    options->sampling.validate();
    const auto lines = read_jsonl(options->input);
    for (const auto& line : lines)
      if (!line.value.contains("answer") || !line.value["answer"].is_string())
        throw ConfigError(line.where + ": needs 'answer', a string");
    LoadedModel loaded = load_for_inference(options->model);
    options->sampling.stop_ids = stop_ids(loaded);
    inference::Engine engine(*loaded.model, {.max_batch = options->batch});
    const auto results = share_out(app, static_cast<int64_t>(lines.size()), [&](int64_t begin, int64_t end) {
      std::vector<std::vector<int32_t>> prompts;
      for (int64_t i = begin; i < end; ++i) {
        const auto& line = lines[static_cast<size_t>(i)];
        prompts.push_back(prompt_tokens(loaded.reader().question_of(line.value, line.where), loaded, "prompt", true, line.where));
      }
      Progress progress("evaluating", end - begin, "problems", app.first() && !app.quiet);
      const auto completions = engine.generate(prompts, options->sampling, static_cast<uint64_t>(begin),
                                               [&](int64_t done) { progress.update(done); });
      std::vector<std::string> texts;
      for (size_t i = 0; i < completions.size(); ++i) {
        const std::string text = loaded.tokenizer.decode(completions[i].tokens);
        const auto answer = lines[static_cast<size_t>(begin) + i].value["answer"].get<std::string>();
        texts.push_back(Json{{"correct", data::answer_is_correct(text, answer)}, {"answer", answer},
                             {"extracted", data::extract_answer(text)}, {"text", text},
                             {"finish_reason", completions[i].finish_reason}}.dump());
      }
      return texts;
    });
    if (!app.first()) return;
    double correct = 0, stopped = 0;
    for (const auto& text : results) {
      const Json result = Json::parse(text);
      correct += result["correct"].get<bool>() ? 1 : 0;
      stopped += result["finish_reason"] == "stop" ? 1 : 0;
    }
    const auto count = static_cast<double>(results.size());
    const auto [low, high] = confidence_interval(correct, count);
    if (!options->output.empty()) write_lines(options->output, results);
    std::cout << Json{{"accuracy", correct / count}, {"correct", static_cast<int64_t>(correct)}, {"count", results.size()},
                      {"confidence_95", {low, high}}, {"stopped", stopped / count}}.dump() << std::endl;
  };
}

}  // namespace tessera::launch
