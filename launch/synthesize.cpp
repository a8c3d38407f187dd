#include "core/error.h"
#include "data/tasks/task.h"
#include "launch/app.h"

namespace tessera::launch {

Command synthesize_command(CLI::App& cli) {
  struct Options {
    data::SynthesisConfig config;
    std::string split = "train", style = "working", output;
  };
  auto options = std::make_shared<Options>();
  data::SynthesisConfig& config = options->config;
  std::string names, footer = "tasks and their kinds:";
  for (const auto& task : data::tasks()) {
    names += (names.empty() ? "" : ", ") + task.name;
    footer += "\n  " + task.name + " (";
    for (const auto& kind : task.kinds) footer += (&kind == task.kinds.data() ? "" : ", ") + kind.name;
    footer += "): " + task.description;
  }
  cli.footer(footer);
  cli.add_option("task", config.task, "one of: " + names)->required();
  cli.add_option("--count", config.count, "number of problems")->capture_default_str();
  cli.add_option("--seed", config.seed, "another seed draws other problems")->capture_default_str();
  cli.add_option("--split", options->split, "train or heldout; the two share no problem, whatever seed and difficulty")
      ->capture_default_str();
  cli.add_option("--difficulty", config.difficulty, "1 (one step) to 5 (several steps and records); 0 = mixed")
      ->capture_default_str();
  cli.add_option("--kind", config.kind, "problems of this kind only; all kinds if left out");
  cli.add_option("--style", options->style,
                 "the assistant's turn: working (a line of it, then the answer), think (the working in <think>, then "
                 "the answer) or answer (alone)")
      ->capture_default_str();
  cli.add_option("--few-shot", config.few_shot, "worked examples and the rules in front of each problem")
      ->capture_default_str();
  cli.add_option("--output", options->output, "JSONL; standard output if left out");
  return [options](App& app) {
    options->config.split = data::parse_split(options->split);
    options->config.style = data::parse_style(options->style);
    options->config.validate();
    if (app.first()) write_lines(options->output, data::synthesize(options->config));
  };
}

}  // namespace tessera::launch
