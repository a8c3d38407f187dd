#include "rl/rewards/helper.h"

#include <cstdio>
#include <exception>
#include <string_view>

#include "rl/rewards/plugin_host.h"
#include "rl/rewards/sandbox_server.h"

namespace tessera::rl {

std::optional<int> run_helper(int argc, char** argv) {
  const std::string_view word = argc > 1 ? argv[1] : "";
  try {
    if (word == "reward-host" && argc == 3) return run_plugin_host(argv[2]);
    if (word == "sandbox-run" && argc == 2) return run_sandbox_server();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return std::nullopt;
}

std::vector<std::string> helper_command(std::vector<std::string> words) {
  words.insert(words.begin(), "/proc/self/exe");
  return words;
}

}  // namespace tessera::rl
