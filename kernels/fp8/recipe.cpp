#include "kernels/fp8/recipe.h"

namespace tessera::kernels::fp8 {

const std::vector<Recipe>& recipes() {
  static const std::vector<Recipe> all = {
      {.name = "blockwise", .activation = {128, 1}, .gradient = {128, 1}, .weight = {128, 128}},
      {.name = "tensorwise", .gradient_format = Format::kE5m2},
      {.name = "bfloat16", .format = Format::kBfloat16, .gradient_format = Format::kBfloat16},
      {.name = "blockwise_coarse_gradients", .activation = {128, 1}, .gradient = {128, 128}, .weight = {128, 128}},
  };
  return all;
}

const Recipe* find_recipe(const std::string& name) {
  for (const Recipe& recipe : recipes())
    if (recipe.name == name) return &recipe;
  return nullptr;
}

}  // namespace tessera::kernels::fp8
