#include "recipes/recipe.h"

#include "core/error.h"
#include "recipes/config_node.h"
#include "recipes/pipeline.h"
#include "recipes/reader.h"
#include "recipes/resolve.h"
#include "recipes/schema.h"
#include "recipes/writer.h"

namespace tessera::recipes {

namespace {

bool is_pipeline(const ConfigNode& node) {
  const ConfigNode* task = node.find("task");
  return task != nullptr && task->scalar == "pipeline";
}

}  // namespace

std::string located(const ConfigNode& root, const std::string& message, const std::string& prefix) {
  std::string key = message.substr(0, message.find_first_of(" :"));
  for (; !key.empty(); key = key.rfind('.') == std::string::npos ? "" : key.substr(0, key.rfind('.'))) {
    const ConfigNode* node = &root;
    size_t begin = 0;
    while (node != nullptr && begin <= key.size()) {
      const size_t dot = std::min(key.find('.', begin), key.size());
      node = node->find(key.substr(begin, dot - begin));
      begin = dot + 1;
    }
    if (node != nullptr) return node->where + ": " + prefix + message;
  }
  return (prefix.empty() ? root.where.substr(0, root.where.rfind(':')) : root.where) + ": " + prefix + message;
}

Recipe resolve(const ConfigNode& node, const std::string& prefix) {
  if (is_pipeline(node))
    throw ConfigError(node.where.substr(0, node.where.rfind(':')) + ": task = pipeline is run by 'tessera train'; "
                      "here give a single run's recipe, such as the "
                      "recipe.yaml that a stage has written into its folder");
  Recipe recipe;
  Reader::read_struct(node, prefix.substr(0, prefix.empty() ? 0 : prefix.size() - 1), recipe);
  if (recipe.config.output.empty()) recipe.config.output = "runs/" + recipe.config.name;
  if (recipe.config.task == "pretrain" && (node.find("data") == nullptr || node.find("data")->find("overlong") == nullptr))
    recipe.config.data.overlong = "split";
  try {
    recipe.config.validate();
    if (recipe.config.task == "grpo" && !recipe.rl) throw ConfigError("task = grpo needs the section rl, with rl.rewards");
    if (recipe.config.task != "grpo" && recipe.rl) throw ConfigError("rl belongs to task: grpo, and the task is " + recipe.config.task + "; leave the section out");
    if (recipe.config.task != "dpo" && recipe.dpo) throw ConfigError("dpo belongs to task: dpo, and the task is " + recipe.config.task + "; leave the section out");
    if (recipe.rl) recipe.rl->validate();
    if (recipe.config.task == "dpo" && !recipe.dpo) recipe.dpo.emplace();
    if (recipe.dpo) recipe.dpo->validate();
  } catch (const ConfigError& error) {
    throw ConfigError(located(node, error.what(), prefix));
  }
  write_out(recipe);
  return recipe;
}

void write_out(Recipe& recipe) {
  recipe.yaml.clear();
  recipe.keys.clear();
  Writer writer(recipe.yaml, recipe.keys, "", 0);
  describe(writer, recipe);
}

Recipe load_recipe(const std::filesystem::path& path, const std::vector<std::string>& overrides) {
  return resolve(load_config(path, overrides));
}

std::variant<Recipe, pipeline::Pipeline> load_run_or_pipeline(const std::filesystem::path& path, const std::vector<std::string>& overrides) {
  const ConfigNode node = load_config(path, overrides);
  if (is_pipeline(node)) return resolve_pipeline(node);
  return resolve(node);
}

pipeline::Pipeline parse_pipeline(const std::string& text, const std::string& name) { return resolve_pipeline(parse_config(text, name)); }

Recipe parse_recipe(const std::string& text, const std::string& name) { return resolve(parse_config(text, name)); }

}  // namespace tessera::recipes
