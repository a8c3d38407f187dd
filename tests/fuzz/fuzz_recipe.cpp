// libFuzzer entry: a recipe that may be anything. What is accepted must survive being written out and read again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/error.h"
#include "recipes/recipe.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using tessera::recipes::parse_recipe;
  tessera::recipes::Recipe recipe;
  try {
    recipe = parse_recipe(std::string(reinterpret_cast<const char*>(data), size), "fuzz");
  } catch (const tessera::ConfigError&) {
    return 0;
  }
  if (parse_recipe(recipe.yaml, "resolved").keys != recipe.keys) std::abort();
  return 0;
}
