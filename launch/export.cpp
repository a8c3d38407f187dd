#include "model/checkpoint_export.h"

#include "core/log.h"
#include "launch/app.h"

namespace tessera::launch {

Command export_command(CLI::App& cli) {
  struct Options {
    std::string checkpoint, output;
    model::ExportOptions how;
  };
  auto options = std::make_shared<Options>();
  cli.add_option("checkpoint", options->checkpoint, "a checkpoint, a run (its newest), or a model or PEFT folder")->required();
  cli.add_option("--output", options->output, "the folder to write")->required();
  cli.add_option("--dtype", options->how.dtype, "auto (each tensor as in the base model), float32 or bfloat16")->capture_default_str();
  cli.add_option("--weights", options->how.weights, "plain, or fp8-blockwise: FP8 projections with a scale for each 128 x 128 block")
      ->capture_default_str()->check(CLI::IsMember({"plain", "fp8-blockwise"}));
  cli.add_flag("--merge-lora", options->how.merge_lora, "write the whole model with the adapter merged in");
  return [options](App& app) {
    if (!app.first()) return;
    model::export_folder(options->checkpoint, options->output, options->how);
    log::info("wrote ", options->output);
  };
}

}  // namespace tessera::launch
