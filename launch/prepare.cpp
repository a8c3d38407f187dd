#include <ATen/Parallel.h>

#include "core/error.h"
#include "core/log.h"
#include "data/prepare.h"
#include "launch/app.h"
#include "recipes/recipe.h"
#include "trainer/datasets.h"

namespace tessera::launch {

Command prepare_command(CLI::App& cli) {
  struct Options {
    std::string recipe, output, model;
    std::vector<std::string> inputs;
    bool plain_content = false;
  };
  auto options = std::make_shared<Options>();
  auto* recipe = cli.add_option("recipe", options->recipe, "prepares all sources of this recipe into its cache");
  cli.add_option("--input", options->inputs, "JSONL or text files, or folders of them")->excludes(recipe);
  cli.add_option("--model", options->model, "folder of the tokenizer and chat template, with --input");
  cli.add_option("--output", options->output, "the HDF5 store to write, with --input")->excludes(recipe);
  cli.add_flag("--plain-content", options->plain_content, "special tokens inside of messages are text, with --input")->excludes(recipe);
  return [options](App& app) {
    const auto busy = app.world.announce("preparing data");
    const data::Share share{.rank = app.world.rank(), .size = app.world.size(), .threads = at::get_num_threads(),
                            .barrier = [&] { app.world.barrier(); }};
    const bool progress = app.first() && !app.quiet;
    if (!options->recipe.empty()) {
      const auto config = recipes::load_recipe(options->recipe, {}).config;
      const auto data = trainer::load_datasets(config, share, progress);
      log::info("prepared ", data.train->num_rows(), " rows, ", data.train->num_tokens(), " tokens");
      return;
    }
    if (options->inputs.empty() || options->output.empty() || options->model.empty())
      throw ConfigError("give a recipe, or --input FILE.. --model DIR --output STORE.h5");
    const auto tokenizer = data::Tokenizer::load(options->model);
    const auto chat_template = data::ChatTemplate::load_if_present(options->model);
    data::prepare_store({.inputs = options->inputs, .output = options->output, .show_progress = progress,
                         .plain_content = options->plain_content}, tokenizer,
                        chat_template ? &*chat_template : nullptr, share);
    log::info("wrote ", options->output);
  };
}

}  // namespace tessera::launch
