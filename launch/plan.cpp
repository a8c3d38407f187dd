#include "plan/dry_run.h"

#include <iostream>

#include "core/error.h"
#include "core/text.h"
#include "launch/app.h"
#include "recipes/recipe.h"
#include "trainer/datasets.h"

namespace tessera::launch {

namespace {

void print_table(const trainer::CommunicationRecord& record, int rank) {
  std::cout << "step " << record.step << ", rank " << rank << " sends\n";
  for (const auto& [axis, traffic] : record.traffic)
    std::cout << "  " << axis << std::string(axis.size() < 18 ? 18 - axis.size() : 1, ' ') << traffic.operations << " operations, "
              << format_bytes(traffic.bytes) << "\n";
}

}  // namespace

Command plan_command(CLI::App& cli) {
  struct Options {
    std::string recipe, replay, output;
    std::vector<std::string> overrides;
    plan::DryRunOptions run;
  };
  auto options = std::make_shared<Options>();
  cli.add_option("recipe", options->recipe, "the YAML recipe")->required();
  cli.add_option("overrides", options->overrides, "key=value, for instance parallel.pp=2");
  cli.add_option("--world", options->run.world_size, "ranks of the run to plan")->required()->check(CLI::PositiveNumber);
  cli.add_option("--rank", options->run.rank, "the rank to look at")->capture_default_str()->check(CLI::NonNegativeNumber);
  cli.add_option("--steps", options->run.steps, "steps to go through")->capture_default_str()->check(CLI::PositiveNumber);
  cli.add_option("--replay", options->replay, "a run's folder (log.communication = true): its exchanges of tokens instead of expected ones");
  cli.add_option("--output", options->output, "writes the steps as JSONL");
  return [options](App& app) {
    if (!app.first()) return;
    auto run = options->run;
    if (run.rank >= run.world_size) throw ConfigError(detail::concat("--rank ", run.rank, " is not one of --world ", run.world_size, " ranks"));
    const auto config = recipes::load_recipe(options->recipe, options->overrides).config;
    std::vector<trainer::CommunicationRecord> replay;
    if (!options->replay.empty()) {
      replay = trainer::CommunicationLog::read(options->replay, run.rank);
      run.replay = &replay;
    }
    const auto sets = trainer::load_datasets(config, {.rank = 0, .size = 1, .threads = 1, .barrier = [] {}}, !app.quiet);
    const auto records = plan::dry_run(config, *sets.train, run);
    if (options->output.empty()) {
      for (const auto& record : records) print_table(record, run.rank);
      return;
    }
    std::vector<std::string> lines;
    for (const auto& record : records)
      lines.push_back(nlohmann::json{{"step", record.step}, {"communication", trainer::to_json(record.traffic, false)}}.dump());
    write_lines(options->output, lines);
  };
}

}  // namespace tessera::launch
