#include "launch/app.h"

#include <iostream>
#include <sstream>

#include "core/error.h"
#include "core/file.h"
#include "model/hf_folder.h"
#include "parallel/text_exchange.h"

namespace tessera::launch {

LoadedModel load_for_inference(const std::filesystem::path& folder) {
  if (!std::filesystem::is_directory(folder)) throw ConfigError("--model " + folder.string() + " is no folder");
  const auto base = model::base_folder(folder);
  LoadedModel loaded{nullptr, data::Tokenizer::load(base), data::ChatTemplate::load_if_present(base), false};
  loaded.model = model::load_model(folder);
  return loaded;
}

std::vector<int32_t> prompt_tokens(const data::Json& line, const LoadedModel& loaded, const char* text_key,
                                   bool add_generation_prompt, const std::string& where) {
  auto ids = loaded.reader().read(line, text_key, add_generation_prompt, where);
  const int64_t longest = loaded.model->config().max_position_embeddings;
  if (static_cast<int64_t>(ids.size()) > longest)
    throw ConfigError(detail::concat(where, ": ", ids.size(), " tokens are more than the model's max_position_embeddings = ", longest));
  return ids;
}

std::vector<std::string> share_out(App& app, int64_t count,
                                   const std::function<std::vector<std::string>(int64_t, int64_t)>& work) {
  const int64_t rank = app.world.rank(), size = app.world.size();
  std::vector<std::string> mine;
  {
    const auto busy = app.world.announce("working on its share");
    mine = work(count * rank / size, count * (rank + 1) / size);
  }
  if (size == 1) return mine;
  std::string joined;
  for (const auto& line : mine) joined += line + "\n";
  std::vector<std::string> all;
  for (const auto& part : parallel::all_gather_text(app.world, joined)) {
    std::istringstream lines(part);
    for (std::string line; app.first() && std::getline(lines, line);) all.push_back(line);
  }
  return all;
}

void write_lines(const std::filesystem::path& path, const std::vector<std::string>& lines) {
  std::string text;
  for (const auto& line : lines) text += line + "\n";
  if (path.empty()) {
    std::cout << text << std::flush;
  } else {
    write_file_atomically(path, text);
  }
}

}  // namespace tessera::launch
