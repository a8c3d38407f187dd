#include "core/log.h"
#include "launch/app.h"
#include "recipes/recipe.h"
#include "rl/preference.h"
#include "rl/reinforcement.h"
#include "trainer/trainer.h"

namespace tessera::launch {

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
    const recipes::Recipe recipe = recipes::load_recipe(options->recipe, options->overrides);
    app.set_timeout(recipe.config.communication.timeout_seconds);
    const trainer::TrainOptions how{.resume = options->resume,
                                    .recipe_yaml = recipe.yaml,
                                    .recipe_keys = recipe.keys,
                                    .show_progress = !app.quiet,
                                    .stop_requested = app.stop_requested};
    if (recipe.rl) {
      rl::Reinforcement(recipe.config, *recipe.rl, how, app.world).train();
    } else if (recipe.dpo) {
      rl::Preference(recipe.config, *recipe.dpo, how, app.world).train();
    } else {
      trainer::Trainer(recipe.config, how, app.world).train();
    }
  };
}

}  // namespace tessera::launch
