#include "core/error.h"
#include "core/log.h"
#include "kernels/accelerator.h"
#include "launch/app.h"
#include "parallel/c10d_communicator.h"
#include "pipeline/pipeline.h"
#include "recipes/recipe.h"
#include "rl/preference.h"
#include "rl/reinforcement.h"
#include "trainer/trainer.h"

namespace tessera::launch {

namespace {

void run_pipeline(App& app, const pipeline::Pipeline& pipeline, const std::string& resume) {
  if (resume != "auto" && resume != "never")
    throw ConfigError("--resume " + resume + ": a pipeline goes on by itself (auto) or starts all over (never); to run one stage again delete its folder");
  app.set_timeout(pipeline.communication.timeout_seconds);
  (void)pipeline::Runner(pipeline, {.from_the_start = resume == "never", .show_progress = !app.quiet, .stop_requested = app.stop_requested}, app.world).run();
}

/// Where a recipe trains. With several ranks tensors on the device go through the device's own backend, those on the host over MPI.
struct Place {
  c10::Device device = at::kCPU;
  std::unique_ptr<parallel::Communicator> over;
};

Place find_place(const App& app, const trainer::TrainerConfig& config) {
  Place place{use_device(app, config.device), nullptr};
  if (app.world.size() > 1 && !place.device.is_cpu())
    place.over = parallel::make_c10d_communicator(app.world, app.devices.find(config.device), {.timeout_seconds = config.communication.timeout_seconds});
  return place;
}

}  // namespace

Command train_command(CLI::App& cli) {
  struct Options {
    std::string recipe, resume = "auto";
    std::vector<std::string> overrides;
  };
  auto options = std::make_shared<Options>();
  cli.add_option("recipe", options->recipe, "the YAML recipe")->required();
  cli.add_option("overrides", options->overrides, "key=value, for instance optimizer.lr=1.0e-4");
  cli.add_option("--resume", options->resume, "auto: from the newest whole checkpoint; never; or a checkpoint's folder")
      ->capture_default_str();
  return [options](App& app) {
    const auto loaded = recipes::load_run_or_pipeline(options->recipe, options->overrides);
    if (const auto* pipeline = std::get_if<pipeline::Pipeline>(&loaded)) return run_pipeline(app, *pipeline, options->resume);
    const auto& recipe = std::get<recipes::Recipe>(loaded);
    app.set_timeout(recipe.config.communication.timeout_seconds);
    const Place place = find_place(app, recipe.config);
    const trainer::TrainOptions how{.resume = options->resume,
                                    .recipe_yaml = recipe.yaml,
                                    .recipe_keys = recipe.keys,
                                    .show_progress = !app.quiet,
                                    .stop_requested = app.stop_requested,
                                    .device = place.device};
    parallel::Communicator& world = place.over ? *place.over : app.world;
    if (recipe.rl) {
      rl::Reinforcement(recipe.config, *recipe.rl, how, world).train();
    } else if (recipe.dpo) {
      rl::Preference(recipe.config, *recipe.dpo, how, world).train();
    } else {
      trainer::Trainer(recipe.config, how, world).train();
    }
  };
}

}  // namespace tessera::launch
