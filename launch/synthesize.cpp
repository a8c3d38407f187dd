#include "core/error.h"
#include "data/tasks/task.h"
#include "launch/app.h"

namespace tessera::launch {

Command synthesize_command(CLI::App& cli) {
  struct Options {
    data::SynthesisConfig config;
    std::string split = "train", output;
  };
  auto options = std::make_shared<Options>();
  std::string names;
  for (const auto& task : data::tasks()) names += (names.empty() ? "" : ", ") + task.name;
  cli.add_option("task", options->config.task, "one of: " + names)->required();
  cli.add_option("--count", options->config.count, "number of problems")->capture_default_str();
  cli.add_option("--seed", options->config.seed)->capture_default_str();
  cli.add_option("--split", options->split, "train or heldout; the two share no problem")->capture_default_str();
  cli.add_option("--few-shot", options->config.few_shot, "worked examples and the rules in front of each problem")->capture_default_str();
  cli.add_option("--output", options->output, "JSONL; standard output if left out");
  return [options](App& app) {
    options->config.split = data::parse_split(options->split);
    options->config.validate();
    if (app.first()) write_lines(options->output, data::synthesize(options->config));
  };
}

}  // namespace tessera::launch
