#include "rl/rewards/plugin_host.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "rl/rewards/plugin.h"

namespace tessera::rl {
namespace {

template <typename Function>
Function* symbol(void* library, const std::string& path, const char* name) {
  auto* found = reinterpret_cast<Function*>(::dlsym(library, name));
  if (found == nullptr)
    throw Error(detail::concat(path, " exports no function ", name, "; see rl/rewards/plugin.h"));
  return found;
}

nlohmann::json answer(const nlohmann::json& request, decltype(tessera_reward)* reward) {
  const auto prompt = request.at("prompt").get<std::string>(),
             completion = request.at("completion").get<std::string>();
  const std::string sample = request.at("sample").dump();
  const TesseraRewardInput input{.size = sizeof(TesseraRewardInput),
                                 .prompt = prompt.c_str(),
                                 .prompt_size = prompt.size(),
                                 .completion = completion.c_str(),
                                 .completion_size = completion.size(),
                                 .sample = sample.c_str(),
                                 .sample_size = sample.size(),
                                 .tokens = request.at("tokens").get<int64_t>(),
                                 .stopped = request.at("stopped").get<bool>(),
                                 .thinking_open = request.at("thinking_open").get<bool>()};
  double value = 0;
  char error[1024] = {};
  const int status = reward(&input, &value, error, sizeof error);
  error[sizeof error - 1] = '\0';
  if (status == 0) return {{"id", request.at("id")}, {"reward", value}};
  return {{"id", request.at("id")},
          {"error", error[0] == '\0' ? detail::concat("the plug-in returned ", status)
                                     : std::string(error)}};
}

}  // namespace

int run_plugin_host(const std::string& path) {
  // What the plug-in prints must not get between the answers.
  const int answers = ::dup(STDOUT_FILENO);
  if (answers < 0 || ::dup2(STDERR_FILENO, STDOUT_FILENO) < 0) throw Error("no standard output");
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw Error(detail::concat("cannot load the plug-in: ", ::dlerror()));
  const uint32_t abi = symbol<decltype(tessera_reward_abi)>(library, path, "tessera_reward_abi")();
  if (abi != TESSERA_REWARD_ABI)
    throw Error(detail::concat(path, " was made for reward interface ", abi, ", this is ",
                               TESSERA_REWARD_ABI, "; compile it anew"));
  auto* reward = symbol<decltype(tessera_reward)>(library, path, "tessera_reward");

  for (std::string line; std::getline(std::cin, line);) {
    const std::string text = answer(nlohmann::json::parse(line), reward)
                                 .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) +
                             "\n";
    for (size_t written = 0; written < text.size();) {
      const ssize_t count = ::write(answers, text.data() + written, text.size() - written);
      if (count < 0) return 1;  // nobody listens any more
      written += static_cast<size_t>(count);
    }
  }
  return 0;
}

}  // namespace tessera::rl
