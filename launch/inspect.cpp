#include <unistd.h>

#include <iostream>

#include "checkpoint/manifest.h"
#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "core/text.h"
#include "data/inspect.h"
#include "launch/app.h"
#include "model/config.h"
#include "recipes/recipe.h"
#include "trainer/datasets.h"

namespace tessera::launch {

namespace {

struct Options {
  std::string what, path;
  int64_t count = 3, first = 0;
};

void inspect_data(const Options& options, App& app) {
  const auto config = recipes::load_recipe(options.path, {}).config;
  const auto sets = trainer::load_datasets(config, {.rank = 0, .size = 1, .threads = 1, .barrier = [] {}}, !app.quiet);
  data::inspect_dataset(*sets.train, config.data, *sets.tokenizer,
                        {.first_row = options.first, .num_rows = options.count, .color = ::isatty(STDOUT_FILENO) == 1}, std::cout);
}

void inspect_checkpoint(const std::string& path) {
  const auto manifest = checkpoint::read_and_verify(path);
  std::cout << "step " << manifest.step << ", whole (all checksums fit)\n";
  for (const auto& [file, hash] : manifest.files) std::cout << "file " << file << "  " << hash << "\n";
  for (const auto& [kind, names] : manifest.tensors) {
    int64_t elements = 0;
    for (const auto& [name, ranges] : names)
      for (const auto& range : ranges) elements += range.count;
    std::cout << kind << ": " << names.size() << " tensors, " << elements << " elements, " << format_bytes(elements * 4) << "\n";
  }
  for (const auto& [key, value] : manifest.state.items())
    if (key != "recipe") std::cout << key << ": " << value.dump() << "\n";
}

void inspect_model(const std::string& path) {
  const auto config = model::ModelConfig::load(path);
  const checkpoint::SafetensorsFolder folder(path, "model");
  int64_t elements = 0, bytes = 0;
  for (const auto& name : folder.names()) {
    const auto& info = folder.find(name)->header().tensors.at(name);
    std::cout << name << "  " << at::IntArrayRef(info.shape) << "  " << c10::toString(info.dtype) << "\n";
    bytes += static_cast<int64_t>(info.end - info.begin);
    elements += static_cast<int64_t>((info.end - info.begin) / c10::elementSize(info.dtype));
  }
  std::cout << config.model_type << ": " << config.num_hidden_layers << " layers, hidden " << config.hidden_size << ", vocabulary "
            << config.vocab_size << "; " << folder.names().size() << " tensors, " << elements << " parameters, " << format_bytes(bytes) << "\n";
}

}  // namespace

Command inspect_command(CLI::App& cli) {
  auto options = std::make_shared<Options>();
  cli.add_option("what", options->what, "data (a recipe), checkpoint or model")->required()->check(CLI::IsMember({"data", "checkpoint", "model"}));
  cli.add_option("path", options->path, "the recipe, or the folder")->required();
  cli.add_option("--count", options->count, "rows of data to show")->capture_default_str()->check(CLI::NonNegativeNumber);
  cli.add_option("--first", options->first, "first row of data to show")->capture_default_str()->check(CLI::NonNegativeNumber);
  return [options](App& app) {
    if (!app.first()) return;
    if (!std::filesystem::exists(options->path)) throw ConfigError(options->path + " does not exist");
    if (options->what == "data") inspect_data(*options, app);
    if (options->what == "checkpoint") inspect_checkpoint(options->path);
    if (options->what == "model") inspect_model(options->path);
  };
}

}  // namespace tessera::launch
